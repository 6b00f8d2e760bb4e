"""Octo as one module with a diffusion action head, action sampling, and the diffusion loss.

Actions are normalised (zero mean, unit deviation), (B, W, H, A): the next H actions at each of W steps.
`observations` and `tasks` are upstream's dictionaries:
    observations: image_<name> (B, W, S, S, 3) uint8; timestep_pad_mask (B, W) bool, False: before the episode;
                  pad_mask_dict: image_<name> (B, W) bool
    tasks: language_instruction {input_ids, attention_mask} (B, L) int32, or their embeddings; optionally goal
           images image_<name> (B, S, S, 3) uint8; pad_mask_dict: by name (B,) bool
Sources: octo-models/octo, octo/model/components/{action_heads,diffusion}.py; Ho et al. 2020 (DDPM), Nichol and Dhariwal
2021 (cosine schedule).
"""

# Modules of flax are untyped for mypy.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rldg_policy.octo.config import HeadConfig, ModelConfig, T5Config
from rldg_policy.octo.transformer import Inputs, OctoTransformer, TokenGroup


class Schedule(NamedTuple):
    """Noise schedule, each (steps,) float32: beta, alpha = 1 - beta, and the cumulative product of alpha."""

    beta: jax.Array
    alpha: jax.Array
    alpha_bar: jax.Array


def cosine_schedule(steps: int) -> Schedule:
    """Return the cosine schedule with offset 0.008 and beta at most 0.999, in float32 as upstream."""
    offset = 0.008
    t = jnp.linspace(0, steps, steps + 1) / steps
    kept = jnp.cos((t + offset) / (1 + offset) * jnp.pi * 0.5) ** 2
    kept = kept / kept[0]
    beta = jnp.clip(1 - kept[1:] / kept[:-1], 0, 0.999)
    return Schedule(beta, 1 - beta, jnp.cumprod(1 - beta))


class DiffusionHead(nn.Module):
    """Predicts the noise (..., W, H * A) from readout (..., W, n, D), noisy (..., W, H * A) and time (..., W, 1)."""

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


Params = dict[str, Any]


class OctoModule(nn.Module):
    """The model, with the parameters `octo_transformer` and `heads_action`."""

    config: ModelConfig
    t5: T5Config

    def setup(self) -> None:
        """Create submodules with upstream's names."""
        self.octo_transformer = OctoTransformer(self.config, self.t5)
        self.heads_action = DiffusionHead(self.config.heads.action)

    def __call__(self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array) -> jax.Array:
        """Predict the noise of zeros, which uses every parameter (for init)."""
        readout = self.readout(observations, tasks, timestep_pad_mask)
        head = self.config.heads.action
        noisy = jnp.zeros((*readout.shape[:2], head.action_horizon * head.action_dim))
        return self.noise(readout, noisy, jnp.zeros((*readout.shape[:2], 1)))

    def outputs(
        self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array, train: bool = False
    ) -> dict[str, TokenGroup]:
        """Return the outputs of the transformer by token group."""
        return self.octo_transformer(observations, tasks, timestep_pad_mask, train)

    def readout(
        self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array, train: bool = False
    ) -> jax.Array:
        """Return the input of the action head (B, W, n, D)."""
        key = self.config.heads.action.readout_key
        return self.outputs(observations, tasks, timestep_pad_mask, train)[key].tokens

    def noise(self, readout: jax.Array, noisy: jax.Array, time: jax.Array, train: bool = False) -> jax.Array:
        """Predict the noise (..., W, H * A); see DiffusionHead."""
        return self.heads_action(readout, noisy, time, train)

    def encode_language(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Run T5 only: ids (B, L) to embeddings (B, L, d_model), which `tasks` may hold instead of ids."""
        return self.octo_transformer.encode_language(input_ids, attention_mask)


@partial(jax.jit, static_argnums=0)
def encode_language(module: OctoModule, params: Params, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
    """Run T5 only: ids (B, L) to embeddings (B, L, d_model), which `tasks` may hold instead of ids."""
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
    """Sample normalised actions (B, H, A) for the last step of the window, by DDPM with noise from `key`.

    Compiled once per architecture and shapes. The results equal upstream's if the call is inside
    `jax.threefry_partitionable(False)`.
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
        x = jnp.where(jnp.isfinite(x), x, jnp.nan)  # clipping would turn Inf into the largest action
        return (jnp.clip(x, -head.max_action, head.max_action), key), None

    key, first = jax.random.split(key)
    start = jax.random.normal(first, (*timestep_pad_mask.shape, head.action_horizon * head.action_dim))
    (flat, _), _ = jax.lax.scan(denoise, (start, key), jnp.arange(head.diffusion_steps - 1, -1, -1))
    return flat[:, -1].reshape(-1, head.action_horizon, head.action_dim)


def diffusion_loss(module: OctoModule, params: Params, batch: Inputs, key: jax.Array, train: bool = True) -> jax.Array:
    """Return the mean squared error of the predicted noise where both masks are True, times the action dimension.

    batch: observation, task, action (B, W, H, A) normalised and action_pad_mask (B, W, H, A) bool, False: padding.
    `key` is used for diffusion times and noise, and with `train` for dropout.
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
