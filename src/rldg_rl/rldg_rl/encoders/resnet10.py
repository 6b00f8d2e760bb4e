"""HIL-SERL's frozen backbone: ResNet-10 (stages 1, 1, 1, 1; GroupNorm of 4 groups), weights from the user's file.

128x128 pixels, ImageNet's mean and deviation -> map (4, 4, 512) of the last stage. Architecture and names of the
parameters as in hil-serl's `serl_launcher/vision/resnet_v1.py` (ResNetEncoder, pre_pooling). `rldg_rl.encoders.convert`
makes the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from rldg_core.arrays import read_npz
from rldg_core.errors import UserError
from rldg_core.files import read_bytes
from rldg_rl.encoders.frozen import FrozenEncoder

Tensors = dict[str, NDArray[np.float32]]

FEATURE_SHAPE = (4, 4, 512)
FILTERS = (64, 128, 256, 512)
"""Of the four blocks; all but the first halve the map."""
GROUPS = 4
EPSILON = 1e-5
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    found: dict[str, tuple[int, ...]] = {"conv_init/kernel": (7, 7, 3, 64), **_norm_shapes("norm_init", 64)}
    inputs = 64
    for index, filters in enumerate(FILTERS):
        block = f"ResNetBlock_{index}"
        found |= {
            f"{block}/Conv_0/kernel": (3, 3, inputs, filters),
            **_norm_shapes(f"{block}/MyGroupNorm_0", filters),
            f"{block}/Conv_1/kernel": (3, 3, filters, filters),
            **_norm_shapes(f"{block}/MyGroupNorm_1", filters),
        }
        if index > 0:
            found[f"{block}/conv_proj/kernel"] = (1, 1, inputs, filters)
            found |= _norm_shapes(f"{block}/norm_proj", filters)
        inputs = filters
    return found


def _norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/scale": (channels,), f"{name}/bias": (channels,)}


def check(tensors: Mapping[str, NDArray[Any]], where: str) -> Tensors:
    """Exactly the tensors of `shapes`, as float32. Raises UserError `where: reason` on the first that differs."""
    for name, shape in shapes().items():
        if name not in tensors:
            raise UserError(f"{where}: no ResNet-10 weights: {name} is missing")
        found = tensors[name]
        if found.shape != shape or found.dtype.kind != "f":
            raise UserError(f"{where}: {name} is {found.dtype}{found.shape}, expected float32{shape}")
        if not np.all(np.isfinite(found)):
            raise UserError(f"{where}: {name} holds a value that is not finite")
    unknown = sorted(tensors.keys() - shapes().keys())
    if unknown:
        raise UserError(f"{where}: no ResNet-10 weights: unknown tensors {', '.join(unknown[:3])}")
    return {name: np.ascontiguousarray(tensors[name], np.float32) for name in shapes()}


def read_tensors(path: Path) -> Tensors:
    """Read a safetensors or npz file. Raises UserError naming the file when it holds anything else."""
    try:
        if path.suffix == ".npz":
            return check(read_npz(path), str(path))
        return check(load(read_bytes(path)), str(path))
    except SafetensorError as error:
        raise UserError(f"{path}: not valid safetensors: {error}") from error


def load_resnet10(weights: Path) -> FrozenEncoder:
    """The frozen encoder; its hash is that of names and values, whichever kind of file they come from.

    Raises UserError naming file and tensor when they do not fit.
    """
    tensors = read_tensors(weights)
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.tobytes())
    params = {name: jnp.asarray(tensor) for name, tensor in tensors.items()}
    jitted = jax.jit(forward)
    return FrozenEncoder("resnet10", FEATURE_SHAPE, digest.hexdigest(), lambda images: jitted(params, images))


def forward(params: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """(N, 128, 128, 3) uint8 -> (N, 4, 4, 512)."""
    x = (images.astype(jnp.float32) / 255.0 - jnp.array(MEAN)) / jnp.array(DEVIATION)
    x = jax.nn.relu(_norm(params, "norm_init", _conv(x, params["conv_init/kernel"], 2, ((3, 3), (3, 3)))))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    for index in range(len(FILTERS)):
        x = _block(params, f"ResNetBlock_{index}", x, stride=2 if index > 0 else 1)
    return x


def _block(params: Mapping[str, Any], name: str, x: jax.Array, stride: int) -> jax.Array:
    y = _conv(x, params[f"{name}/Conv_0/kernel"], stride)
    y = jax.nn.relu(_norm(params, f"{name}/MyGroupNorm_0", y))
    y = _norm(params, f"{name}/MyGroupNorm_1", _conv(y, params[f"{name}/Conv_1/kernel"]))
    if f"{name}/conv_proj/kernel" in params:
        x = _norm(params, f"{name}/norm_proj", _conv(x, params[f"{name}/conv_proj/kernel"], stride))
    return jax.nn.relu(x + y)


def _conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: Any = "SAME") -> jax.Array:
    out: jax.Array = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return out


def _norm(params: Mapping[str, Any], name: str, x: jax.Array) -> jax.Array:
    """GroupNorm over positions and the channels of each group."""
    count, height, width, channels = x.shape
    groups = x.reshape(count, height * width, GROUPS, channels // GROUPS)
    groups = groups - groups.mean((1, 3), keepdims=True)
    groups = groups * jax.lax.rsqrt((groups * groups).mean((1, 3), keepdims=True) + EPSILON)
    out: jax.Array = groups.reshape(x.shape) * params[f"{name}/scale"] + params[f"{name}/bias"]
    return out
