"""Octo's training objective: the noise that was added to action chunks, predicted at a random diffusion step.

Upstream: DiffusionActionHead.loss of model/components/action_heads.py.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

PredictNoise = Callable[[jax.Array, jax.Array], jax.Array]
"""(step (N, B, W, 1), noisy actions (N, B, W, H A)) -> predicted noise (N, B, W, H A)."""


def diffusion_loss(
    predict_noise: PredictNoise,
    alpha_hats: jax.Array,
    actions: jax.Array,
    mask: jax.Array,
    key: jax.Array,
    *,
    max_action: float,
    samples: int = 1,
) -> jax.Array:
    """Mean squared error of the noise where `mask` is true, summed over the components of an action.

    actions, mask: (B, W, H, A), actions normalised; alpha_hats (T,): share of the signal's variance that is left at
    each diffusion step; samples: draws of step and noise per window.
    """
    batch, window, _, components = actions.shape
    clean = jnp.clip(actions.reshape(batch, window, -1), -max_action, max_action)
    step_key, noise_key = jax.random.split(key)
    step = jax.random.randint(step_key, (samples, batch, window, 1), 0, len(alpha_hats))
    noise = jax.random.normal(noise_key, (samples, *clean.shape))
    signal = alpha_hats[step]
    predicted = predict_noise(step, jnp.sqrt(signal) * clean + jnp.sqrt(1 - signal) * noise)
    valid = jnp.broadcast_to(mask.reshape(batch, window, -1), noise.shape)
    error = jnp.mean(jnp.square(predicted - noise) * valid) / jnp.maximum(jnp.mean(valid), 1e-5)
    return error * components
