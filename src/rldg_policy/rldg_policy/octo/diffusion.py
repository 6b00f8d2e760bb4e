"""The diffusion action head: predicts the noise in a chunk of actions from a readout.

Source: octo-models/octo, octo/model/components/{action_heads,diffusion}.py; Ho et al. 2020 (DDPM), Nichol and
Dhariwal 2021 (cosine schedule).
"""

# Modules of flax are untyped for mypy.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rldg_policy.octo.config import HeadConfig


class Schedule(NamedTuple):
    """Noise per diffusion step, each (steps,) float32: beta, 1 - beta, and the product of the latter up to here."""

    beta: jax.Array
    alpha: jax.Array
    alpha_bar: jax.Array


def cosine_schedule(steps: int) -> Schedule:
    """Cosine schedule with offset 0.008, beta at most 0.999; in float32, as upstream rounds."""
    offset = 0.008
    t = jnp.linspace(0, steps, steps + 1) / steps
    kept = jnp.cos((t + offset) / (1 + offset) * jnp.pi * 0.5) ** 2
    kept = kept / kept[0]
    beta = jnp.clip(1 - kept[1:] / kept[:-1], 0, 0.999)
    return Schedule(beta, 1 - beta, jnp.cumprod(1 - beta))


class DiffusionHead(nn.Module):
    """readout (..., W, n, D), noisy (..., W, H * A), time (..., W, 1) -> predicted noise (..., W, H * A)."""

    config: HeadConfig

    @nn.compact
    def __call__(self, readout: jax.Array, noisy: jax.Array, time: jax.Array, train: bool) -> jax.Array:
        return _NoisePredictor(self.config, name="diffusion_model")(readout.mean(axis=-2), noisy, time, train)


class _NoisePredictor(nn.Module):
    config: HeadConfig

    @nn.compact
    def __call__(self, embedding: jax.Array, noisy: jax.Array, time: jax.Array, train: bool) -> jax.Array:
        config = self.config
        features = _FourierFeatures(config.time_dim, name="time_preprocess")(time)
        condition = _TimeEncoder(config.time_dim, name="cond_encoder")(features)
        embedding = jnp.broadcast_to(embedding, (*condition.shape[:-1], embedding.shape[-1]))
        x = jnp.concatenate([condition, embedding, noisy], axis=-1)
        return _ResidualNetwork(config, name="reverse_network")(x, train)


class _FourierFeatures(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.normal(0.2), (self.size // 2, x.shape[-1]))
        angle = 2 * jnp.pi * x @ kernel.T
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class _TimeEncoder(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        init = nn.initializers.xavier_uniform()
        x = nn.swish(nn.Dense(2 * self.size, kernel_init=init, name="Dense_0")(x))
        return nn.Dense(self.size, kernel_init=init, name="Dense_1")(x)


class _ResidualNetwork(nn.Module):
    config: HeadConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        config = self.config
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(config.hidden_dim, kernel_init=init, name="Dense_0")(x)
        for number in range(config.num_blocks):
            x = _ResidualBlock(config, name=f"MLPResNetBlock_{number}")(x, train)
        size = config.action_horizon * config.action_dim
        return nn.Dense(size, kernel_init=init, name="Dense_1")(nn.swish(x))


class _ResidualBlock(nn.Module):
    config: HeadConfig

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        y = nn.Dropout(self.config.dropout_rate, deterministic=not train)(x)
        if self.config.use_layer_norm:
            y = nn.LayerNorm(name="LayerNorm_0")(y)
        y = nn.swish(nn.Dense(4 * x.shape[-1], name="Dense_0")(y))
        return x + nn.Dense(x.shape[-1], name="Dense_1")(y)
