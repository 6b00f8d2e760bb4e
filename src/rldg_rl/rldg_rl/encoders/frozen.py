"""What frozen encoders have in common: uint8 images in, float16 features out, computed once for each frame.

HIL-SERL draws a new random crop (pad 4) for every sample, which costs a pass through the backbone per sample. The
features of a crop never change when the backbone is frozen, so a few crops per frame are drawn once, on arrival, and
their features are cached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.seeding import derive_seed

IMAGE_SIZE = 128
"""Side of the square image that every encoder sees [px] (paper)."""

PAD_PX = 4
"""[H]: pad by 4 with the edge's pixels, then crop back to the size."""


@dataclass(frozen=True)
class FrozenEncoder:
    """One frozen encoder. feature_shape: (F,) or (h, w, c); weights_sha256 goes into a specialist's specification."""

    name: str
    feature_shape: tuple[int, ...]
    weights_sha256: str
    apply: Callable[[NDArray[np.uint8]], Any]
    """Jitted: (N, 128, 128, 3) uint8 -> (N, *feature_shape)."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(N, 128, 128, 3) uint8 RGB -> (N, *feature_shape) float16. Compiles once for each N."""
        return np.asarray(self.apply(images), np.float16)


def crops(image: NDArray[np.uint8], count: int, stamp_ns: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (count, H, W, 3) uint8. Crop 0 is the image itself, the others are shifted by up to +-4 px.

    The shifts depend on the frame's stamp alone, so that a frame read back from a bag gives the same crops.
    """
    rng = np.random.default_rng(derive_seed(stamp_ns, "crops"))
    height, width = image.shape[:2]
    padded = np.pad(image, ((PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0)), mode="edge")
    shifts = rng.integers(0, 2 * PAD_PX, (count, 2), endpoint=True)
    shifts[0] = PAD_PX
    return np.stack([padded[y : y + height, x : x + width] for y, x in shifts])
