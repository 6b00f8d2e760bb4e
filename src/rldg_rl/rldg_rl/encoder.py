"""A frozen, seeded random convolutional encoder: wrist image -> cached features.

Its weights never change, so each frame is encoded once on arrival and an update costs what an MLP costs.
Weights come from a fixed seed: nothing to download, nothing to send.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rldg_core.image_codec import decode_jpeg, resize
from rldg_core.types import Observation

IMAGE_SIZE = 128
FEATURE_DIM = 4 * 4 * 32
_SEED = 0
# (kernel, stride, input channels, output channels)
_LAYERS = ((8, 4, 3, 16), (4, 2, 16, 32), (4, 2, 32, 32))


@cache
def _encode() -> Any:
    rng = np.random.default_rng(_SEED)
    kernels = [
        (rng.standard_normal((k, k, i, o)) * (2.0 / (k * k * i)) ** 0.5).astype(np.float32) for k, _, i, o in _LAYERS
    ]

    def forward(image: jax.Array) -> jax.Array:
        # Per-image standardisation: brightness and contrast of the scene vary, the geometry counts.
        x = image.astype(jnp.float32)
        x = (x - x.mean()) / (x.std() + 1.0)
        x = x[None]
        for kernel, (_, stride, _, _) in zip(kernels, _LAYERS, strict=True):
            x = jax.lax.conv_general_dilated(
                x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x)
        x = x.reshape(4, 2, 4, 2, 32).mean((1, 3)).reshape(-1)
        return jnp.tanh((x - x.mean()) / (x.std() + 1e-6))

    return jax.jit(forward)


def image_features(observation: Observation, camera: str) -> NDArray[np.float32]:
    """(FEATURE_DIM,) in (-1, 1). Raises ValueError when the observation has no such camera or a broken image."""
    if camera not in observation.images:
        raise ValueError(f"observation holds no image of camera {camera!r}")
    image = resize(decode_jpeg(observation.images[camera]), IMAGE_SIZE)
    return np.asarray(_encode()(image))


def warm_up() -> None:
    """Compile."""
    _encode()(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)).block_until_ready()
