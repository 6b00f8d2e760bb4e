"""Encoder head, actor and critics as pure functions over parameter trees (plain JAX).

Parameters are nested dicts of float32 arrays. A critic ensemble is one tree whose leaves have a leading
axis (N,). All dense layers but the last are followed by LayerNorm and an activation (HIL-SERL, RLPD).

The head turns Inputs into one embedding in two steps, so that an update looks at each image once:
`look` (convolutions, spatial learned embeddings) and `embed` (dropout, dense layers, concatenation).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rldg_rl.config import LAYER_NORM_EPSILON, NetworkConfig
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.weights import look_dim, map_shape

Params = Any


def _dense(key: jax.Array, inputs: int, outputs: int, scale: float = 1.0) -> Params:
    bound = scale * (6.0 / (inputs + outputs)) ** 0.5  # Xavier uniform, as HIL-SERL
    return {"w": jax.random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound), "b": jnp.zeros(outputs)}


def _normed(key: jax.Array, inputs: int, outputs: int) -> Params:
    return {**_dense(key, inputs, outputs), "scale": jnp.ones(outputs), "offset": jnp.zeros(outputs)}


def _forward_normed(layer: Params, x: jax.Array, activation: str) -> jax.Array:
    x = x @ layer["w"] + layer["b"]
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    x = x * layer["scale"] + layer["offset"]
    return jnp.tanh(x) if activation == "tanh" else jax.nn.relu(x)


def mlp_init(key: jax.Array, inputs: int, hidden: tuple[int, ...], outputs: int, last_scale: float = 1.0) -> Params:
    """Parameters of an MLP: {"layer_0": {w, b, scale, offset}, ..., "out": {w, b}}."""
    keys = jax.random.split(key, len(hidden) + 1)
    params: dict[str, Params] = {}
    for index, width in enumerate(hidden):
        params[f"layer_{index}"] = _normed(keys[index], inputs, width)
        inputs = width
    params["out"] = _dense(keys[-1], inputs, outputs, last_scale)
    return params


def mlp(params: Params, x: jax.Array, activation: str) -> jax.Array:
    """Forward pass: (..., inputs) -> (..., outputs)."""
    for index in range(len(params) - 1):
        x = _forward_normed(params[f"layer_{index}"], x, activation)
    out: jax.Array = x @ params["out"]["w"] + params["out"]["b"]
    return out


def head_init(key: jax.Array, spec: InputSpec, config: NetworkConfig) -> Params:
    """Parameters of the encoder head; parts that the configuration leaves out are absent."""
    cnn_key, spatial_key, image_key, state_key = jax.random.split(key, 4)
    params: dict[str, Params] = {}
    if spec.image_shape is not None and spec.pixels:
        from rldg_rl.encoders import small_cnn

        params["cnn"] = small_cnn.init(cnn_key)
    if spec.image_shape is not None and config.image_bottleneck:
        shape = map_shape(spec)
        if len(shape) == 3:
            # LeCun normal, as HIL-SERL: every channel is weighted over positions on its own.
            scale = float(np.prod(shape)) ** -0.5
            params["spatial"] = scale * jax.random.normal(spatial_key, (*shape, config.spatial_embeddings))
        params["image"] = _normed(image_key, look_dim(spec, config), config.image_bottleneck)
    if config.state_bottleneck:
        params["state"] = _normed(state_key, spec.state_dim, config.state_bottleneck)
    return params


def look(params: Params, inputs: Inputs) -> jax.Array:
    """The image as a vector, before dropout: (B, *image_shape) -> (B, look_dim); (B, 0) without an image."""
    if inputs.image is None:
        return jnp.zeros((*inputs.state.shape[:-1], 0))
    x = inputs.image
    if "cnn" in params:
        from rldg_rl.encoders import small_cnn

        x = small_cnn.forward(params["cnn"], x)
    seen: jax.Array = x.astype(jnp.float32)
    if "spatial" in params:
        seen = jnp.einsum("bhwc,hwck->bck", seen, params["spatial"])
    return seen.reshape(seen.shape[0], -1)


def embed(params: Params, seen: jax.Array, state: jax.Array, dropout: float, key: jax.Array | None = None) -> jax.Array:
    """What `look` saw (B, look_dim) and the state (B, S) -> embedding (B, E). key: apply dropout to the image."""
    if "image" in params:
        if key is not None and dropout > 0:
            keep = jax.random.bernoulli(key, 1.0 - dropout, seen.shape)
            seen = jnp.where(keep, seen / (1.0 - dropout), 0.0)
        seen = _forward_normed(params["image"], seen, "tanh")
    if "state" in params:
        state = _forward_normed(params["state"], state, "tanh")
    return jnp.concatenate([seen, state], -1)


def critics_init(key: jax.Array, inputs: int, config: NetworkConfig) -> Params:
    """Ensemble: every leaf (N, ...). inputs: length of embedding and action together."""
    return jax.vmap(lambda k: mlp_init(k, inputs, config.hidden, 1))(jax.random.split(key, config.critics))


def critics(params: Params, embedding: jax.Array, actions: jax.Array, activation: str) -> jax.Array:
    """Q of every critic: (B, E), (B, A) -> (N, B)."""
    inputs = jnp.concatenate([embedding, actions], -1)
    return jax.vmap(lambda p: mlp(p, inputs, activation)[..., 0])(params)


def actor_init(key: jax.Array, inputs: int, action_dim: int, config: NetworkConfig) -> Params:
    """Actor: one MLP on the embedding whose output holds mean (A,) and log standard deviation (A,)."""
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


def actor(params: Params, embedding: jax.Array, config: NetworkConfig) -> TanhGaussian:
    """Distribution of the action: (B, E) -> mean, std (B, A)."""
    mean, log_std = jnp.split(mlp(params, embedding, config.activation), 2, -1)
    return TanhGaussian(mean, jnp.clip(jnp.exp(log_std), config.std_min, config.std_max))
