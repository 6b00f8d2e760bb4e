"""The actor's forward pass in numpy: tens of microseconds, no JAX in the policy node."""

from __future__ import annotations

import numpy as np

from rldg_rl.config import LAYER_NORM_EPSILON, NetworkConfig
from rldg_rl.weights import Array, Tensors


def actor_forward(tensors: Tensors, features: Array, config: NetworkConfig) -> tuple[Array, Array]:
    """Mean and standard deviation (A,) before tanh; equals `rldg_rl.networks.actor` up to rounding."""
    x = features
    for index in range(len(config.hidden)):
        name = f"layer_{index}/"
        x = x @ tensors[name + "w"] + tensors[name + "b"]
        x = x - x.mean()
        x = x / np.sqrt((x * x).mean() + np.float32(LAYER_NORM_EPSILON))
        x = x * tensors[name + "scale"] + tensors[name + "offset"]
        x = np.tanh(x) if config.activation == "tanh" else np.maximum(x, 0)
    mean, log_std = np.split(x @ tensors["out/w"] + tensors["out/b"], 2)
    with np.errstate(over="ignore"):
        std = np.clip(np.exp(log_std), config.std_min, config.std_max)
    return mean, std


def choose_action(tensors: Tensors, features: Array, config: NetworkConfig, rng: np.random.Generator | None) -> Array:
    """Action (A,) in [-1, 1]: a sample when `rng` is given, else the mode."""
    mean, std = actor_forward(tensors, features, config)
    if rng is not None:
        mean = mean + std * rng.standard_normal(mean.shape, dtype=np.float32)
    return np.tanh(mean).astype(np.float32)
