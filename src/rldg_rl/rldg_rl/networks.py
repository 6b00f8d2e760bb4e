"""Encoder head, actor and critics as pure functions over parameter trees (plain JAX).

Parameters are nested dicts of float32 arrays. A critic ensemble is one tree whose leaves have a leading
axis (N,). All dense layers but the last are followed by LayerNorm and an activation (HIL-SERL, RLPD).

The head turns Inputs into one embedding in two steps, so that an update computes the first one once per image:
`image_features` (convolutions, spatial learned embeddings) and `embed` (dropout, dense layers, concatenation).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rldg_rl.config import LAYER_NORM_EPSILON, NetworkConfig
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.weights import COMMANDS, head_shapes, mlp_shapes

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
    """Return the parameters of an MLP: {"layer_0": {w, b, scale, offset}, ..., "out": {w, b}}."""
    keys, shapes = jax.random.split(key, len(hidden) + 1), mlp_shapes(inputs, hidden, outputs)
    layers = [f"layer_{index}" for index in range(len(hidden))]
    params = {name: _normed(keys[index], *shapes[f"{name}/w"]) for index, name in enumerate(layers)}
    last_inputs, _ = shapes["out/w"]
    return {**params, "out": _dense(keys[-1], last_inputs, outputs, scale=last_scale)}


def mlp(params: Params, x: jax.Array, activation: str) -> jax.Array:
    """Forward pass: (..., inputs) -> (..., outputs)."""
    for index in range(len(params) - 1):
        x = _forward_normed(params[f"layer_{index}"], x, activation)
    out: jax.Array = x @ params["out"]["w"] + params["out"]["b"]
    return out


def head_init(key: jax.Array, spec: InputSpec, config: NetworkConfig) -> Params:
    """Return the parameters of the encoder head; parts that the configuration does not use are absent."""
    cnn_key, spatial_key, image_key, state_key = jax.random.split(key, 4)
    shapes = head_shapes(spec, config)
    params: dict[str, Params] = {}
    if spec.pixels:
        from rldg_rl.encoders import small_cnn

        params["cnn"] = small_cnn.init(cnn_key)
    if "spatial" in shapes:
        # LeCun normal, as HIL-SERL: each channel has its own weights over the positions.
        scale = float(np.prod(shapes["spatial"][:-1])) ** -0.5
        params["spatial"] = scale * jax.random.normal(spatial_key, shapes["spatial"])
    for name, layer_key in (("image", image_key), ("state", state_key)):
        if f"{name}/w" in shapes:
            params[name] = _normed(layer_key, *shapes[f"{name}/w"])
    return params


def image_features(params: Params, inputs: Inputs) -> jax.Array:
    """Return the image as a vector, before dropout: (B, *image_shape) -> (B, image_dim); (B, 0) without an image."""
    if inputs.image is None:
        return jnp.zeros((*inputs.state.shape[:-1], 0))
    x = inputs.image
    if "cnn" in params:
        from rldg_rl.encoders import small_cnn

        x = small_cnn.forward(params["cnn"], x)
    features: jax.Array = x.astype(jnp.float32)
    if "spatial" in params:
        features = jnp.einsum("bhwc,hwck->bck", features, params["spatial"])
    return features.reshape(features.shape[0], -1)


def embed(
    params: Params, image: jax.Array, state: jax.Array, dropout: float, key: jax.Array | None = None
) -> jax.Array:
    """Return the embedding (B, E) of image features (B, image_dim) and state (B, S). key: of the image's dropout."""
    if "image" in params:
        if key is not None and dropout > 0:
            keep = jax.random.bernoulli(key, 1.0 - dropout, image.shape)
            image = jnp.where(keep, image / (1.0 - dropout), 0.0)
        image = _forward_normed(params["image"], image, "tanh")
    if "state" in params:
        state = _forward_normed(params["state"], state, "tanh")
    return jnp.concatenate([image, state], -1)


def critics_init(key: jax.Array, inputs: int, config: NetworkConfig) -> Params:
    """Return the parameters of the ensemble: every leaf is (N, ...). inputs: length of embedding plus action."""
    return jax.vmap(lambda k: mlp_init(k, inputs, config.hidden, 1))(jax.random.split(key, config.critics))


def critics(params: Params, embedding: jax.Array, actions: jax.Array, activation: str) -> jax.Array:
    """Return Q of every critic: (B, E), (B, A) -> (N, B)."""
    inputs = jnp.concatenate([embedding, actions], -1)
    return jax.vmap(lambda p: mlp(p, inputs, activation)[..., 0])(params)


def actor_init(key: jax.Array, inputs: int, action_dim: int, config: NetworkConfig) -> Params:
    """Return the parameters of the actor: an MLP from the embedding to mean (A,) and log standard deviation (A,)."""
    return mlp_init(key, inputs, config.hidden, 2 * action_dim, last_scale=0.01)


class TanhGaussian(NamedTuple):
    """Distribution of tanh(x), where x is Gaussian with independent components of standard deviation `std`."""

    mean: jax.Array
    std: jax.Array

    def mode(self) -> jax.Array:
        """tanh(mean), in (-1, 1)."""
        return jnp.tanh(self.mean)

    def sample_and_log_prob(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return a reparametrised sample (..., A) and its log density (...,)."""
        noise = jax.random.normal(key, self.mean.shape)
        before = self.mean + self.std * noise
        gaussian = -0.5 * noise**2 - jnp.log(self.std) - 0.5 * jnp.log(2 * jnp.pi)
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)), which does not underflow for large |x|.
        jacobian = 2.0 * (jnp.log(2.0) - before - jax.nn.softplus(-2.0 * before))
        return jnp.tanh(before), (gaussian - jacobian).sum(-1)


def actor(params: Params, embedding: jax.Array, config: NetworkConfig) -> TanhGaussian:
    """Return the distribution of the actions (B, A) given the embedding (B, E)."""
    mean, log_std = jnp.split(mlp(params, embedding, config.activation), 2, -1)
    return TanhGaussian(mean, jnp.clip(jnp.exp(log_std), config.std_min, config.std_max))


def gripper_init(key: jax.Array, inputs: int, config: NetworkConfig) -> Params:
    """Return the parameters of an MLP that maps an embedding to the value of each gripper command (3,)."""
    return mlp_init(key, inputs, config.hidden, COMMANDS)
