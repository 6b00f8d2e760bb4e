"""Actions <-> 256 bins between the 1st and the 99th percentile, as OpenVLA does (ActionTokenizer, bounds_q99)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.errors import UserError
from rldg_policy.compact.config import ACTION_DIM, BINS

Float32 = NDArray[np.float32]
EDGES = np.linspace(-1.0, 1.0, BINS)
CENTERS = (EDGES[:-1] + EDGES[1:]) / 2
"""255 centres: the last of the 256 tokens stands for the value 1.0 alone and decodes to the last centre."""


@dataclass(frozen=True)
class ActionStatistics:
    """q01, q99 (7,) in physical units; mask (7,): which components are normalised (the gripper is not)."""

    q01: Float32
    q99: Float32
    mask: NDArray[np.bool_]

    @classmethod
    def read(cls, statistics: Mapping[str, Any], where: str) -> ActionStatistics:
        """From `{"q01": [...], "q99": [...], "mask": [...]}`. Raises UserError `where: reason`."""
        try:
            q01, q99 = (np.asarray(statistics[k], dtype=np.float32) for k in ("q01", "q99"))
            mask = np.asarray(statistics["mask"], dtype=np.bool_)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: action statistics need q01, q99 and mask: {error}") from error
        if not q01.shape == q99.shape == mask.shape == (ACTION_DIM,) or not np.all(np.isfinite([q01, q99])):
            raise UserError(f"{where}: action statistics need {ACTION_DIM} finite numbers in q01, q99 and mask")
        return cls(q01, q99, mask)

    def normalise(self, action: ArrayLike) -> Float32:
        """(..., 7) physical -> [-1, 1]; a component that never varies becomes 0."""
        values = np.asarray(action, dtype=np.float64)
        scaled = np.clip(2 * (values - self.q01) / (self.q99 - self.q01 + 1e-8) - 1, -1.0, 1.0)
        normalised = np.where(self.mask, np.where(self.q99 == self.q01, 0.0, scaled), np.clip(values, -1.0, 1.0))
        return normalised.astype(np.float32)

    def denormalise(self, normalised: ArrayLike) -> Float32:
        """(..., 7) in [-1, 1] -> physical."""
        values = np.asarray(normalised, dtype=np.float64)
        physical = 0.5 * (values + 1) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, physical, values).astype(np.float32)


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
