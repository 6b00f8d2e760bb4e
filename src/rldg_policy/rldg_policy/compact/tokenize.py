"""Normalised actions <-> 256 bins over [-1, 1], as OpenVLA does (ActionTokenizer)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_policy.compact.config import BINS

Float32 = NDArray[np.float32]
EDGES = np.linspace(-1.0, 1.0, BINS)
CENTERS = (EDGES[:-1] + EDGES[1:]) / 2
"""255 centres: the last of the 256 tokens stands for the value 1.0 alone and decodes to the last centre."""


def to_bins(normalised: ArrayLike) -> NDArray[np.int64]:
    """[-1, 1] -> bin 0..255: `digitize - 1`; OpenVLA's token id is 31999 - bin."""
    bins: NDArray[np.int64] = np.digitize(np.clip(np.asarray(normalised), -1.0, 1.0), EDGES).astype(np.int64) - 1
    return bins


def from_bins(bins: ArrayLike) -> Float32:
    """Bin 0..255 -> centre in [-1, 1]."""
    centers: Float32 = CENTERS[np.clip(np.asarray(bins), 0, BINS - 2)].astype(np.float32)
    return centers


def bin_values() -> Float32:
    """Value that each of the 256 bins decodes to (256,)."""
    return from_bins(np.arange(BINS))
