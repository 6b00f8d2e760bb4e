"""The classifier's head on frozen features: dense 256 -> dropout 0.1 -> LayerNorm -> ReLU -> 1 (HIL-SERL)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from pydantic import Field

from rldg_core.configuration import FrozenModel
from rldg_rl.config import LAYER_NORM_EPSILON

Params = dict[str, Any]
Tensors = dict[str, NDArray[np.float32]]


class ClassifierConfig(FrozenModel):
    """Hyper-parameters of the classifier. [H]: hil-serl 5d02aed."""

    encoder: Literal["random_conv", "embedded", "resnet10"] = "random_conv"
    """Random features separate almost and fully inserted plugs better than the embedded encoder, which is trained on
    positions: 1 against 9 of 51 successes missed (benchmarks/classifier.py)."""
    encoder_weights: str | None = None
    """File of resnet10's weights."""
    camera: str = ""
    """Camera; empty: the first one of the task."""
    crops: Annotated[int, Field(ge=1, le=16)] = 4
    """Crops of each frame, encoded once (`rldg_rl.encoders.frozen`)."""
    hidden: Annotated[int, Field(ge=1, le=1_000_000_000)] = 256
    """[H]"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """[H]"""
    learning_rate: Annotated[float, Field(gt=0, le=1e9)] = 1e-4
    """[H], Adam."""
    batch_per_class: Annotated[int, Field(ge=1, le=1_000_000_000)] = 128
    """[H]: 128 positive and 128 negative frames."""
    epochs: Annotated[int, Field(ge=1, le=1_000_000_000)] = 150
    """Passes over the negative training frames, each with as many positive ones."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the episodes that are held out."""
    precision: Annotated[float, Field(gt=0.5, le=1)] = 0.99
    """Target precision on held-out frames, which the threshold is chosen for."""


def shapes(features: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the head."""
    dense = {"dense/w": (features, hidden), "dense/b": (hidden,)}
    return dense | {"norm/scale": (hidden,), "norm/offset": (hidden,), "out/w": (hidden, 1), "out/b": (1,)}


def init(features: int, hidden: int, seed: int) -> Tensors:
    """Fresh weights (LeCun normal, flax's default)."""
    rng = np.random.default_rng(seed)
    params: Tensors = {}
    for name, shape in shapes(features, hidden).items():
        if name.endswith("/w"):
            params[name] = (rng.standard_normal(shape) * shape[0] ** -0.5).astype(np.float32)
        else:
            params[name] = np.full(shape, float(name.endswith("scale")), np.float32)
    return params


def forward(params: Params, features: Any, dropped: Any = 1.0) -> Any:
    """(N, F) -> logits (N,). dropped: factors of the dense layer's outputs. Works with numpy and with JAX arrays."""
    x = (features @ params["dense/w"] + params["dense/b"]) * dropped
    x = x - x.mean(-1, keepdims=True)
    x = x * ((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPSILON) ** -0.5
    x = x * params["norm/scale"] + params["norm/offset"]
    return ((x * (x > 0)) @ params["out/w"] + params["out/b"])[..., 0]


class Trainer:
    """Head, optimiser and jitted update."""

    def __init__(self, features: int, config: ClassifierConfig, seed: int) -> None:
        self._optimiser = optax.adam(config.learning_rate)
        self.params: Params = jax.tree.map(jnp.asarray, init(features, config.hidden, seed))
        self._state = self._optimiser.init(self.params)
        self._update = jax.jit(partial(_update, self._optimiser, config.dropout))

    def update(self, features: NDArray[np.float16], labels: NDArray[np.bool_], key: Any) -> float:
        """One step of Adam on a batch (N, F); returns the loss."""
        self.params, self._state, loss = self._update(self.params, self._state, features, labels, key)
        return float(loss)

    def tensors(self) -> Tensors:
        """A copy of the head's weights."""
        return {name: np.asarray(value) for name, value in self.params.items()}


def _update(optimiser: Any, dropout: float, params: Params, state: Any, features: Any, labels: Any, key: Any) -> Any:
    def loss(params: Params) -> jax.Array:
        width = params["dense/b"].shape[0]
        kept = jax.random.bernoulli(key, 1.0 - dropout, (len(labels), width)) / (1.0 - dropout)
        logits = forward(params, features.astype(jnp.float32), kept)
        losses: jax.Array = optax.sigmoid_binary_cross_entropy(logits, labels)
        return losses.mean()

    value, gradient = jax.value_and_grad(loss)(params)
    change, state = optimiser.update(gradient, state)
    return optax.apply_updates(params, change), state, value
