"""OpenVLA's discretisation of normalised actions: 256 bins over [-1, 1] (openvla, ActionTokenizer)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]

BINS = 256
EDGES = np.linspace(-1.0, 1.0, BINS)
CENTRES = (EDGES[:-1] + EDGES[1:]) / 2
"""255 centres: the last of the 256 bins holds the value 1.0 alone and decodes to the last centre."""


def to_bins(normalised: ArrayLike) -> NDArray[np.int64]:
    """Return the bin 0..255 of each normalised action; values outside [-1, 1] are clipped."""
    bins: NDArray[np.int64] = np.digitize(np.clip(np.asarray(normalised), -1.0, 1.0), EDGES).astype(np.int64) - 1
    return bins


def from_bins(bins: ArrayLike) -> Float32:
    """Return the centre of each bin 0..255, in [-1, 1]; bins out of range are clipped."""
    centres: Float32 = CENTRES[np.clip(np.asarray(bins), 0, len(CENTRES) - 1)].astype(np.float32)
    return centres


def bin_values() -> Float32:
    """Return the value that each of the 256 bins decodes to, (256,)."""
    return from_bins(np.arange(BINS))
