"""The weights that a policy needs to act: names and shapes, and their safetensors bytes on the wire and on disk.

These are the trained parts: encoder head, actor, gripper head. A frozen encoder is not sent; the hash of the
specification covers its weights.
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
Shapes = dict[str, tuple[int, ...]]

ARM_DIM = 6
"""Number of action components of the arm; the 7th component, if there is one, is the gripper's."""
COMMANDS = 3
"""Gripper commands close, keep, open: command = index - 1."""


def flatten(params: Any, prefix: str = "") -> Tensors:
    """Nested dicts of arrays -> {"layer_0/w": array, ...}."""
    if not isinstance(params, Mapping):
        return {prefix: np.ascontiguousarray(params)}
    parts = (flatten(value, f"{prefix}/{key}" if prefix else key) for key, value in params.items())
    return {name: array for part in parts for name, array in part.items()}


def map_shape(spec: InputSpec) -> tuple[int, ...]:
    """Return the shape of the features that enter the image head: cached ones, or the output of the small CNN."""
    assert spec.image_shape is not None
    if not spec.pixels:
        return spec.image_shape
    from rldg_rl.encoders.small_cnn import FEATURE_SHAPE

    return FEATURE_SHAPE


def image_dim(spec: InputSpec, config: NetworkConfig) -> int:
    """Return the length of `rldg_rl.networks.image_features` for one frame."""
    if spec.image_shape is None:
        return 0
    shape = map_shape(spec)
    if len(shape) == 1 or not config.image_bottleneck:
        return math.prod(shape)
    return shape[-1] * config.spatial_embeddings


def embedding_dim(spec: InputSpec, config: NetworkConfig) -> int:
    """Return the length of the embedding of one frame."""
    image = config.image_bottleneck or image_dim(spec, config) if spec.image_shape else 0
    return image + (config.state_bottleneck or spec.state_dim)


def policy_shapes(config: NetworkConfig, spec: InputSpec, action_dim: int) -> Shapes:
    """Return name and shape of every tensor of `rldg_rl.agent.policy_params`: head/, actor/ and gripper/."""
    width = embedding_dim(spec, config)
    parts = {"head": head_shapes(spec, config), "actor": mlp_shapes(width, config.hidden, 2 * min(action_dim, ARM_DIM))}
    if action_dim > ARM_DIM:
        parts["gripper"] = mlp_shapes(width, config.hidden, COMMANDS)
    return {f"{part}/{name}": shape for part, shapes in parts.items() for name, shape in shapes.items()}


def head_shapes(spec: InputSpec, config: NetworkConfig) -> Shapes:
    """Return the tensors of the encoder head; parts that the configuration does not use are absent."""
    shapes: Shapes = {}
    if spec.pixels:
        from rldg_rl.encoders import small_cnn

        shapes |= {f"cnn/{name}": size for name, size in small_cnn.shapes().items()}
    if spec.image_shape is not None and config.image_bottleneck:
        shape = map_shape(spec)
        if len(shape) == 3:
            shapes["spatial"] = (*shape, config.spatial_embeddings)
        shapes |= _layer_shapes("image", image_dim(spec, config), config.image_bottleneck)
    if config.state_bottleneck:
        shapes |= _layer_shapes("state", spec.state_dim, config.state_bottleneck)
    return shapes


def mlp_shapes(inputs: int, hidden: tuple[int, ...], outputs: int) -> Shapes:
    """Return the tensors of an MLP: layer_0/{w, b, scale, offset}, ..., out/{w, b}."""
    shapes: Shapes = {}
    for index, width in enumerate(hidden):
        shapes |= _layer_shapes(f"layer_{index}", inputs, width)
        inputs = width
    return shapes | {"out/w": (inputs, outputs), "out/b": (outputs,)}


def _layer_shapes(name: str, inputs: int, width: int) -> Shapes:
    return {
        f"{name}/w": (inputs, width),
        f"{name}/b": (width,),
        f"{name}/scale": (width,),
        f"{name}/offset": (width,),
    }


def pack(tensors: Tensors) -> bytes:
    """Return safetensors bytes; the same tensors give the same bytes."""
    data: bytes = save(tensors)
    return data


def unpack(data: bytes, shapes: Mapping[str, tuple[int, ...]], where: str) -> Tensors:
    """Return the float32 tensors. Raises UserError `where: reason` unless they have exactly these shapes."""
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
