"""A small convolutional network that is trained with the critics: 128x128 pixels -> (8, 8, 64) feature map.

Its parameters are part of the agent's encoder head. The strides are large in the first layers, so that most of the work
is one matrix product on patches and an update at batch 256 takes about a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rldg_rl.encoders.frozen import PAD_PX

# (kernel, stride, input channels, output channels)
LAYERS = ((4, 4, 3, 32), (3, 2, 32, 32), (3, 2, 32, 64))
FEATURE_SHAPE = (8, 8, 64)


def shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    layers: dict[str, tuple[int, ...]] = {}
    for index, (kernel, _, inputs, outputs) in enumerate(LAYERS):
        layers |= {f"conv_{index}_w": (kernel, kernel, inputs, outputs), f"conv_{index}_b": (outputs,)}
    return layers


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Fresh parameters (He)."""
    params: dict[str, jax.Array] = {}
    for name, shape in shapes().items():
        key, layer_key = jax.random.split(key)
        if name.endswith("_w"):
            fan_in = shape[0] * shape[1] * shape[2]
            params[name] = (2.0 / fan_in) ** 0.5 * jax.random.normal(layer_key, shape)
        else:
            params[name] = jnp.zeros(shape)
    return params


def forward(params: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """(B, 128, 128, 3) uint8 -> (B, 8, 8, 64) >= 0."""
    x = images.astype(jnp.float32) / 128.0 - 1.0
    for index, (kernel, stride, _, _) in enumerate(LAYERS):
        weights = params[f"conv_{index}_w"]
        patches = _patches(x, kernel, stride)
        x = jax.nn.relu(patches @ weights.reshape(patches.shape[-1], -1) + params[f"conv_{index}_b"])
    return x


def _patches(x: jax.Array, kernel: int, stride: int) -> jax.Array:
    """(B, H, W, C) -> (B, H/stride, W/stride, kernel x kernel x C): a convolution is this and one matrix product.

    Padded at the far edges, as SAME does for even sides. XLA's CPU back-end is ten times slower with convolutions
    inside a scan.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // stride, width // stride
    if kernel == stride:
        blocks = x.reshape(batch, rows, stride, columns, stride, channels).transpose(0, 1, 3, 2, 4, 5)
        return blocks.reshape(batch, rows, columns, -1)
    far = kernel - stride
    x = jnp.pad(x, ((0, 0), (0, far), (0, far), (0, 0)))
    offsets = [(i, j) for i in range(kernel) for j in range(kernel)]
    ends = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    return jnp.concatenate([x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i, j in offsets], -1)


def random_shift(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each image (B, H, W, 3) padded by 4 with its edge and cropped back at random (HIL-SERL's augmentation)."""
    pad = ((0, 0), (PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0))
    padded = jnp.pad(images, pad, mode="edge")
    corners = jax.random.randint(key, (images.shape[0], 2), 0, 2 * PAD_PX + 1)
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), images.shape[1:]))(
        padded, corners
    )
