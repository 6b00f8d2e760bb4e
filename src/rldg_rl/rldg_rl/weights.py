"""Weights as bytes: what acting needs, on its way to the policy node and on disk. Safetensors, never pickle.

Trainable parts only: encoder head, actor, gripper head. A frozen encoder is never sent; the specification's hash
names its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rldg_core.errors import UserError
from rldg_core.policy_checks import check_finite
from rldg_rl.config import NetworkConfig
from rldg_rl.inputs import InputSpec

Array = NDArray[np.float32]
Tensors = dict[str, Array]

ARM_DIM = 6
"""Action components of the arm; a longer action has the gripper's as its 7th."""
COMMANDS = 3
"""close, keep, open: command = index - 1."""


def flatten(params: Any, prefix: str = "") -> Tensors:
    """Nested dicts of arrays -> {"layer_0/w": array, ...}."""
    if not isinstance(params, Mapping):
        return {prefix: np.ascontiguousarray(params)}
    parts = (flatten(value, f"{prefix}/{key}" if prefix else key) for key, value in params.items())
    return {name: array for part in parts for name, array in part.items()}


def map_shape(spec: InputSpec) -> tuple[int, ...]:
    """Shape of the features that enter the image head: those cached, or what the small CNN makes of pixels."""
    assert spec.image_shape is not None
    if not spec.pixels:
        return spec.image_shape
    from rldg_rl.encoders.small_cnn import FEATURE_SHAPE

    return FEATURE_SHAPE


def look_dim(spec: InputSpec, config: NetworkConfig) -> int:
    """Length of what `look` returns for one frame."""
    if spec.image_shape is None:
        return 0
    shape = map_shape(spec)
    if len(shape) == 1 or not config.image_bottleneck:
        return math.prod(shape)
    return shape[-1] * config.spatial_embeddings


def embedding_dim(spec: InputSpec, config: NetworkConfig) -> int:
    """Length of what `embed` returns for one frame."""
    image = config.image_bottleneck or look_dim(spec, config) if spec.image_shape else 0
    return image + (config.state_bottleneck or spec.state_dim)


def policy_shapes(config: NetworkConfig, spec: InputSpec, action_dim: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of `rldg_rl.agent.policy_params`: head/, actor/ and gripper/."""
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.image_shape is not None:
        if spec.pixels:
            from rldg_rl.encoders import small_cnn

            shapes |= {f"head/cnn/{name}": size for name, size in small_cnn.shapes().items()}
        if config.image_bottleneck:
            shape = map_shape(spec)
            if len(shape) == 3:
                shapes["head/spatial"] = (*shape, config.spatial_embeddings)
            shapes |= _normed("head/image", look_dim(spec, config), config.image_bottleneck)
    if config.state_bottleneck:
        shapes |= _normed("head/state", spec.state_dim, config.state_bottleneck)
    width = embedding_dim(spec, config)
    shapes |= _mlp("actor", width, config.hidden, 2 * min(action_dim, ARM_DIM))
    return shapes | (_mlp("gripper", width, config.hidden, COMMANDS) if action_dim > ARM_DIM else {})


def _normed(name: str, inputs: int, width: int) -> dict[str, tuple[int, ...]]:
    layer = {"w": (inputs, width), "b": (width,), "scale": (width,), "offset": (width,)}
    return {f"{name}/{part}": shape for part, shape in layer.items()}


def _mlp(name: str, inputs: int, hidden: tuple[int, ...], outputs: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, width in enumerate(hidden):
        shapes |= _normed(f"{name}/layer_{index}", inputs, width)
        inputs = width
    return shapes | {f"{name}/out/w": (inputs, outputs), f"{name}/out/b": (outputs,)}


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
    check_finite(where, tensors.items())
    return tensors
