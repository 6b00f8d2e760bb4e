"""Computes actions with NumPy, in tens of microseconds. The policy node needs JAX for images only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from rldg_rl.config import LAYER_NORM_EPSILON, NetworkConfig
from rldg_rl.inputs import Inputs
from rldg_rl.weights import COMMANDS, Array, Tensors


def embed(tensors: Tensors, inputs: Inputs) -> Array:
    """Return the embedding (E,) of one frame: the encoder head without dropout."""
    image, state = np.zeros(0, np.float32), inputs.state
    if inputs.image is not None:
        image = inputs.image
        if image.dtype == np.uint8:
            image = _small_cnn(tensors, image)
        image = image.astype(np.float32, copy=False)
        if "head/spatial" in tensors:
            image = np.einsum("pc,pck->ck", *(_flat(x, image.shape) for x in (image, tensors["head/spatial"])))
        image = image.reshape(-1)
    if "head/image/w" in tensors:
        image = _normed(tensors, "head/image", image, "tanh")
    if "head/state/w" in tensors:
        state = _normed(tensors, "head/state", state, "tanh")
    return np.concatenate([image, state])


def actor_forward(tensors: Tensors, embedding: Array, config: NetworkConfig) -> tuple[Array, Array]:
    """Return mean and standard deviation (6,) before tanh; equal to `rldg_rl.networks.actor` up to rounding."""
    mean, log_std = np.split(_mlp(tensors, "actor", embedding, config), 2)
    with np.errstate(over="ignore"):
        std = np.clip(np.exp(log_std), config.std_min, config.std_max)
    return mean, std


def choose_action(
    tensors: Tensors,
    inputs: Inputs,
    config: NetworkConfig,
    rng: np.random.Generator | None,
    gripper_epsilon: float = 0.0,
) -> Array:
    """Return an action (6,) in [-1, 1], or (7,) with a gripper, whose component is in {-1, 0, 1}.

    rng: sample the arm's action, and a uniform gripper command with probability gripper_epsilon; None: take the mode.
    Raises ValueError when the output of a network is not finite.
    """
    embedding = embed(tensors, inputs)
    mean, std = actor_forward(tensors, embedding, config)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        # tanh and argmax would turn it into a plausible action.
        raise ValueError("the actor's output is not finite")
    if rng is not None:
        mean = mean + std * rng.standard_normal(mean.shape, dtype=np.float32)
    action = np.tanh(mean).astype(np.float32)
    if "gripper/out/w" not in tensors:
        return action
    values = _mlp(tensors, "gripper", embedding, config)
    if not np.isfinite(values).all():
        raise ValueError("the gripper head's output is not finite")
    command = int(values.argmax()) - 1
    if rng is not None and rng.random() < gripper_epsilon:
        command = int(rng.integers(COMMANDS)) - 1
    return np.append(action, np.float32(command))


def _flat(x: Array, map_shape: tuple[int, ...]) -> Array:
    return x.reshape(map_shape[0] * map_shape[1], *x.shape[2:])


def _normed(tensors: Tensors, name: str, x: Array, activation: str) -> Array:
    x = x @ tensors[f"{name}/w"] + tensors[f"{name}/b"]
    x = x - x.mean()
    x = x / np.sqrt((x * x).mean() + np.float32(LAYER_NORM_EPSILON))
    x = x * tensors[f"{name}/scale"] + tensors[f"{name}/offset"]
    return np.tanh(x) if activation == "tanh" else np.maximum(x, 0)


def _mlp(tensors: Tensors, name: str, x: Array, config: NetworkConfig) -> Array:
    for index in range(len(config.hidden)):
        x = _normed(tensors, f"{name}/layer_{index}", x, config.activation)
    return x @ tensors[f"{name}/out/w"] + tensors[f"{name}/out/b"]


def _small_cnn(tensors: Tensors, image: Any) -> Array:
    prefix = "head/cnn/"
    params = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return np.asarray(_jitted_cnn()(params, image[None])[0])


@cache
def _jitted_cnn() -> Callable[[Mapping[str, Array], Any], Any]:
    import jax

    from rldg_rl.encoders import small_cnn

    return jax.jit(small_cnn.forward)
