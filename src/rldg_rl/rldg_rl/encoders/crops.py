"""A few fixed crops of a frame, encoded once on arrival, stand in for random-shift augmentation.

HIL-SERL draws a new random crop (pad 4) for every sample, which costs a backbone pass per sample. As the frozen
backbone's answer to a crop never changes, K crops per frame are drawn once and their features cached.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rldg_core.seeding import derive_seed

PAD_PX = 4
"""[H]: pad by 4 with the edge's pixels, then crop back to the size."""

Image = NDArray[np.uint8]


def crops(image: Image, count: int, stamp_ns: int) -> Image:
    """(H, W, 3) -> (count, H, W, 3) uint8. Crop 0 is the image itself, the others are shifted by up to +-4 px.

    The shifts depend on the frame's stamp alone, so that a frame read back from a bag gives the same crops.
    """
    rng = np.random.default_rng(derive_seed(stamp_ns, "crops"))
    height, width = image.shape[:2]
    padded = np.pad(image, ((PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0)), mode="edge")
    shifts = rng.integers(0, 2 * PAD_PX, (count, 2), endpoint=True)
    shifts[0] = PAD_PX
    return np.stack([padded[y : y + height, x : x + width] for y, x in shifts])
