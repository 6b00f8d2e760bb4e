"""Actor and critics as pure functions over parameter trees (plain JAX).

Parameters are nested dicts of float32 arrays. A critic ensemble is one tree whose leaves have a leading
axis (N,). All dense layers but the last are followed by LayerNorm and the activation (HIL-SERL, RLPD).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rldg_rl.config import LAYER_NORM_EPSILON, NetworkConfig

Params = Any


def _dense(key: jax.Array, inputs: int, outputs: int, scale: float = 1.0) -> Params:
    bound = scale * (6.0 / (inputs + outputs)) ** 0.5  # Xavier uniform, as HIL-SERL
    return {"w": jax.random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound), "b": jnp.zeros(outputs)}


def mlp_init(key: jax.Array, inputs: int, hidden: tuple[int, ...], outputs: int, last_scale: float = 1.0) -> Params:
    """Parameters of an MLP: {"layer_0": {w, b, scale, offset}, ..., "out": {w, b}}."""
    keys = jax.random.split(key, len(hidden) + 1)
    params: dict[str, Params] = {}
    for index, width in enumerate(hidden):
        norm = {"scale": jnp.ones(width), "offset": jnp.zeros(width)}
        params[f"layer_{index}"] = {**_dense(keys[index], inputs, width), **norm}
        inputs = width
    params["out"] = _dense(keys[-1], inputs, outputs, last_scale)
    return params


def mlp(params: Params, x: jax.Array, activation: str) -> jax.Array:
    """Forward pass: (..., inputs) -> (..., outputs)."""
    act = jnp.tanh if activation == "tanh" else jax.nn.relu
    for index in range(len(params) - 1):
        layer = params[f"layer_{index}"]
        x = x @ layer["w"] + layer["b"]
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
        x = act(x * layer["scale"] + layer["offset"])
    out: jax.Array = x @ params["out"]["w"] + params["out"]["b"]
    return out


def critics_init(key: jax.Array, inputs: int, config: NetworkConfig) -> Params:
    """Ensemble: every leaf (N, ...)."""
    return jax.vmap(lambda k: mlp_init(k, inputs, config.hidden, 1))(jax.random.split(key, config.critics))


def critics(params: Params, observations: jax.Array, actions: jax.Array, activation: str) -> jax.Array:
    """Q of every critic: (B, O), (B, A) -> (N, B)."""
    inputs = jnp.concatenate([observations, actions], -1)
    return jax.vmap(lambda p: mlp(p, inputs, activation)[..., 0])(params)


def actor_init(key: jax.Array, inputs: int, action_dim: int, config: NetworkConfig) -> Params:
    """Actor: one MLP whose output holds mean (A,) and log standard deviation (A,)."""
    return mlp_init(key, inputs, config.hidden, 2 * action_dim, last_scale=0.01)


class TanhGaussian(NamedTuple):
    """tanh of a Gaussian with diagonal standard deviation `std` (not a covariance)."""

    mean: jax.Array
    std: jax.Array

    def mode(self) -> jax.Array:
        """tanh(mean), in (-1, 1)."""
        return jnp.tanh(self.mean)

    def sample_and_log_prob(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Reparametrised sample (..., A) and its exact log density (...,)."""
        noise = jax.random.normal(key, self.mean.shape)
        before = self.mean + self.std * noise
        gaussian = -0.5 * noise**2 - jnp.log(self.std) - 0.5 * jnp.log(2 * jnp.pi)
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), exact where 1 - tanh^2 underflows.
        jacobian = 2.0 * (jnp.log(2.0) - before - jax.nn.softplus(-2.0 * before))
        return jnp.tanh(before), (gaussian - jacobian).sum(-1)


def actor(params: Params, observations: jax.Array, config: NetworkConfig) -> TanhGaussian:
    """Distribution of the action: (B, O) -> mean, std (B, A)."""
    mean, log_std = jnp.split(mlp(params, observations, config.activation), 2, -1)
    return TanhGaussian(mean, jnp.clip(jnp.exp(log_std), config.std_min, config.std_max))
