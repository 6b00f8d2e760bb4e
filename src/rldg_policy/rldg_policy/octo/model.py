"""Octo as one module, and what is done with it: sampling a chunk, and the diffusion loss.

Actions here are normalised (zero mean, unit deviation), (B, W, H, A): at each of W steps the H actions from it on.
`observations` and `tasks` are upstream's dictionaries:
    observations: image_<name> (B, W, S, S, 3) uint8; timestep_pad_mask (B, W) bool, False: before the episode;
                  pad_mask_dict: image_<name> (B, W) bool
    tasks: language_instruction {input_ids, attention_mask} (B, L) int32, or their embeddings; optionally goal
           images image_<name> (B, S, S, 3) uint8; pad_mask_dict: by name (B,) bool
"""

# Modules of flax are untyped for mypy.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rldg_policy.octo.config import ModelConfig, T5Config
from rldg_policy.octo.diffusion import DiffusionHead, cosine_schedule
from rldg_policy.octo.stem import Inputs, TokenGroup
from rldg_policy.octo.transformer import OctoTransformer

Params = dict[str, Any]


class OctoModule(nn.Module):
    """All parameters in one place: `octo_transformer` and `heads_action`."""

    config: ModelConfig
    t5: T5Config

    def setup(self) -> None:
        """Children under upstream's names."""
        self.octo_transformer = OctoTransformer(self.config, self.t5)
        self.heads_action = DiffusionHead(self.config.heads.action)

    def __call__(self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array) -> jax.Array:
        """Touch every parameter (for init): the noise predicted for zeros."""
        readout = self.readout(observations, tasks, timestep_pad_mask)
        head = self.config.heads.action
        noisy = jnp.zeros((*readout.shape[:2], head.action_horizon * head.action_dim))
        return self.noise(readout, noisy, jnp.zeros((*readout.shape[:2], 1)))

    def outputs(
        self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array, train: bool = False
    ) -> dict[str, TokenGroup]:
        """Outputs of the transformer by group of tokens."""
        return self.octo_transformer(observations, tasks, timestep_pad_mask, train)

    def readout(
        self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array, train: bool = False
    ) -> jax.Array:
        """(B, W, n, D): what the action head sees."""
        key = self.config.heads.action.readout_key
        return self.outputs(observations, tasks, timestep_pad_mask, train)[key].tokens

    def noise(self, readout: jax.Array, noisy: jax.Array, time: jax.Array, train: bool = False) -> jax.Array:
        """Predicted noise (..., W, H * A); see DiffusionHead."""
        return self.heads_action(readout, noisy, time, train)

    def encode_language(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Run T5 alone: (B, L) -> (B, L, d_model), which `tasks` may hold in place of the ids."""
        return self.octo_transformer.encode_language(input_ids, attention_mask)


@partial(jax.jit, static_argnums=0)
def encode_language(module: OctoModule, params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """Run T5 alone: (B, L) -> (B, L, d_model), which `tasks` may hold in place of the ids."""
    return module.apply({"params": params}, input_ids, attention_mask, method="encode_language")


@partial(jax.jit, static_argnums=0)
def sample_actions(
    module: OctoModule,
    params: Params,
    observations: Inputs,
    tasks: Inputs,
    timestep_pad_mask: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """(B, H, A) normalised: the chunk of the window's last step, by DDPM from the noise of `key`.

    Compiled once per network and shapes, whatever the weights. The numbers are upstream's where
    `jax.threefry_partitionable(False)` is in force around the call.
    """
    head = module.config.heads.action
    schedule = cosine_schedule(head.diffusion_steps)
    variables = {"params": params}
    readout = module.apply(variables, observations, tasks, timestep_pad_mask, method="readout")

    def denoise(carry: tuple[jax.Array, jax.Array], step: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, key = carry
        time = jnp.broadcast_to(step, (*x.shape[:-1], 1))
        noise = module.apply(variables, readout, x, time, method="noise")
        beta, alpha, alpha_bar = (values[step] for values in schedule)
        x = (x - (1 - alpha) / jnp.sqrt(1 - alpha_bar) * noise) / jnp.sqrt(alpha)
        key, fresh = jax.random.split(key)
        x = x + (step > 0) * jnp.sqrt(beta) * jax.random.normal(fresh, x.shape)
        x = jnp.where(jnp.isfinite(x), x, jnp.nan)  # clipped, Inf would be the largest action
        return (jnp.clip(x, -head.max_action, head.max_action), key), None

    key, first = jax.random.split(key)
    start = jax.random.normal(first, (*timestep_pad_mask.shape, head.action_horizon * head.action_dim))
    (flat, _), _ = jax.lax.scan(denoise, (start, key), jnp.arange(head.diffusion_steps - 1, -1, -1))
    return flat[:, -1].reshape(-1, head.action_horizon, head.action_dim)


def diffusion_loss(module: OctoModule, params: Params, batch: Inputs, key: jax.Array, train: bool = True) -> jax.Array:
    """Mean squared error of the predicted noise over what both masks leave, times the action's dimension.

    batch: observation, task, action (B, W, H, A) normalised and action_pad_mask (B, W, H, A) bool, False: padding.
    `key` draws diffusion times and noise, and dropout when `train`.
    """
    head = module.config.heads.action
    schedule = cosine_schedule(head.diffusion_steps)
    dropout_key, head_key, time_key, noise_key = jax.random.split(key, 4)
    variables = {"params": params}
    observations, actions = batch["observation"], batch["action"]
    timestep_pad_mask = observations["timestep_pad_mask"]
    readout = module.apply(
        variables,
        observations,
        batch["task"],
        timestep_pad_mask,
        train,
        rngs={"dropout": dropout_key},
        method="readout",
    )
    flat = jnp.clip(actions.reshape(*actions.shape[:2], -1), -head.max_action, head.max_action)
    samples = (head.n_diffusion_samples, *flat.shape)
    step = jax.random.randint(time_key, (*samples[:-1], 1), 0, head.diffusion_steps)
    noise = jax.random.normal(noise_key, samples)
    alpha_bar = schedule.alpha_bar[step]
    noisy = jnp.sqrt(alpha_bar) * flat + jnp.sqrt(1 - alpha_bar) * noise
    predicted = module.apply(variables, readout, noisy, step, train, rngs={"dropout": head_key}, method="noise")
    counts = (timestep_pad_mask[:, :, None, None] & batch["action_pad_mask"]).reshape(flat.shape)
    counts = jnp.broadcast_to(counts, samples)
    error = jnp.mean(jnp.square(predicted - noise) * counts) / jnp.clip(jnp.mean(counts), min=1e-5)
    return error * head.action_dim
