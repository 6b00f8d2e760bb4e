"""The small frozen encoder whose weights are part of the package: 128x128 wrist image -> 128 features.

Made by `rldg_rl.encoders.pretrain` from randomised renders of the simulated cell. Patches, two 3x3 convolutions,
then two kinds of pooling (soft-argmax of every channel, which gives sub-pixel positions, and 4x4 means), and one dense
layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.policy_checks import check_finite
from rldg_rl.encoders.frozen import FrozenEncoder

FEATURE_DIM = 128
WEIGHTS = "embedded.safetensors"
# (kernel, stride, input channels, output channels)
LAYERS = ((4, 4, 3, 32), (3, 2, 32, 64), (3, 1, 64, 64))
GRID = 16
"""Side of the last feature map."""

Params = dict[str, Any]


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    layers: dict[str, tuple[int, ...]] = {}
    for index, (kernel, _, inputs, outputs) in enumerate(LAYERS):
        layers |= {f"conv_{index}/w": (kernel, kernel, inputs, outputs), f"conv_{index}/b": (outputs,)}
    channels = LAYERS[-1][3]
    pooled = channels * (2 + 4 * 4)
    return layers | {"temperature": (channels,), "dense/w": (pooled, FEATURE_DIM), "dense/b": (FEATURE_DIM,)}


def padding(kernel: int) -> int:
    """Return the zero padding of each side: none for patches, 1 for 3x3 kernels."""
    return 1 if kernel == 3 else 0


def init(seed: int) -> Params:
    """Fresh weights (He)."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for name, shape in shapes().items():
        if name.endswith("/w"):
            params[name] = (rng.standard_normal(shape) * (2.0 / np.prod(shape[:-1])) ** 0.5).astype(np.float32)
        else:
            params[name] = np.zeros(shape, np.float32)
    return params


def forward(params: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """(N, 128, 128, 3) uint8 -> (N, FEATURE_DIM) in (-1, 1)."""
    x = images.astype(jnp.float32) / 128.0 - 1.0
    for index, (kernel, stride, _, _) in enumerate(LAYERS):
        x = jax.lax.conv_general_dilated(
            x,
            params[f"conv_{index}/w"],
            (stride, stride),
            ((padding(kernel),) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + params[f"conv_{index}/b"])
    count, channels = x.shape[0], x.shape[3]
    flat = x.reshape(count, GRID * GRID, channels)
    weight = jax.nn.softmax(flat * jnp.exp(params["temperature"]), axis=1)
    axis = jnp.linspace(-1.0, 1.0, GRID)
    grid = jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(GRID * GRID, 2)
    where = jnp.einsum("npc,pd->ncd", weight, grid).reshape(count, -1)
    what = x.reshape(count, 4, GRID // 4, 4, GRID // 4, channels).mean((2, 4)).reshape(count, -1)
    return jnp.tanh(jnp.concatenate([where, what], 1) @ params["dense/w"] + params["dense/b"])


def frozen_from(data: bytes, where: str) -> FrozenEncoder:
    """Safetensors bytes -> encoder. Raises UserError `where: reason` when they are no such weights."""
    try:
        params: dict[str, NDArray[np.float32]] = load(data)
    except SafetensorError as error:
        raise UserError(f"{where}: not valid safetensors: {error}") from error
    found = {name: tensor.shape for name, tensor in params.items()}
    if found != shapes():
        raise UserError(f"{where}: tensors are not those of the embedded encoder")
    check_finite(where, params.items())
    constants = {name: jnp.asarray(tensor, jnp.float32) for name, tensor in params.items()}
    return FrozenEncoder(
        "embedded", (FEATURE_DIM,), sha256_hex(data), jax.jit(lambda images: forward(constants, images))
    )


def load_embedded() -> FrozenEncoder:
    """The encoder of this package."""
    file = resources.files("rldg_rl.encoders") / WEIGHTS
    try:
        data = file.read_bytes()  # bounded: a file of this package
    except OSError as error:
        raise UserError(f"{file}: cannot read the embedded encoder: {error}") from error
    return frozen_from(data, str(file))
