"""Weights as bytes: the actor on its way to the policy node, and on disk. Safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rldg_core.errors import UserError
from rldg_rl.config import NetworkConfig

Array = NDArray[np.float32]
Tensors = dict[str, Array]


def flatten(params: Any, prefix: str = "") -> Tensors:
    """Nested dicts of arrays -> {"layer_0/w": array, ...}."""
    if not isinstance(params, Mapping):
        return {prefix: np.ascontiguousarray(params)}
    parts = (flatten(value, f"{prefix}/{key}" if prefix else key) for key, value in params.items())
    return {name: array for part in parts for name, array in part.items()}


def actor_shapes(config: NetworkConfig, feature_dim: int, action_dim: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an actor (`rldg_rl.networks.actor_init`)."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs = feature_dim
    for index, width in enumerate(config.hidden):
        layer = {"w": (inputs, width), "b": (width,), "scale": (width,), "offset": (width,)}
        shapes |= {f"layer_{index}/{name}": shape for name, shape in layer.items()}
        inputs = width
    return shapes | {"out/w": (inputs, 2 * action_dim), "out/b": (2 * action_dim,)}


def pack(tensors: Tensors) -> bytes:
    """Tensors -> safetensors bytes; the same tensors always give the same bytes."""
    data: bytes = save(tensors)
    return data


def unpack(data: bytes, shapes: Mapping[str, tuple[int, ...]], where: str) -> Tensors:
    """Safetensors bytes -> float32 tensors of exactly these shapes. Raises UserError `where: reason` otherwise."""
    try:
        tensors: Tensors = load(data)
    except SafetensorError as error:
        raise UserError(f"{where}: not valid safetensors: {error}") from error
    if tensors.keys() != shapes.keys():
        difference = sorted(tensors.keys() ^ shapes.keys())
        raise UserError(f"{where}: tensors differ from the specification: {', '.join(difference[:4])}")
    for name, array in tensors.items():
        if array.shape != shapes[name] or array.dtype != np.float32:
            raise UserError(f"{where}: {name} is {array.dtype}{array.shape}, expected float32{shapes[name]}")
        if not np.all(np.isfinite(array)):
            raise UserError(f"{where}: {name} holds a value that is not finite")
    return tensors
