"""Statistics in lerobot's format: per episode in meta/episodes, of the whole dataset in meta/stats.json.

Quantiles are exact; lerobot estimates them from histograms and sampled frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rldg_core.image_codec import Image

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
Stats = dict[str, Any]
Counts = NDArray[np.int64]
"""Histogram of pixel values: (3 channels, 256)."""


def number_stats(rows: NDArray[Any]) -> Stats:
    """Statistics of rows (N,) or (N, D), each a list of D values."""
    values = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    named = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }
    return {**{name: value.tolist() for name, value in named.items()}, "count": [len(values)]}


def count_pixels(image: Image) -> Counts:
    """Histogram of an (H, W, 3) image."""
    return np.stack([cv2.calcHist([image], [c], None, [256], [0, 256]).ravel() for c in range(3)]).astype(np.int64)


def image_stats(counts: Counts, frames: int) -> Stats:
    """Statistics per channel from the histogram of all pixels, in [0, 1], each of shape (3, 1, 1)."""
    channels = [_of_histogram(channel) for channel in counts]
    stats: Stats = {name: [[[c[name]]] for c in channels] for name in channels[0]}
    return {**stats, "count": [frames]}


def _of_histogram(counts: Sequence[int] | Counts) -> dict[str, float]:
    number = np.asarray(counts)
    values = np.arange(256) / 255.0
    total, upto = number.sum(), np.cumsum(number)
    present = np.flatnonzero(number)
    mean = float(number @ values / total)
    position = {name: q * (total - 1) for name, q in QUANTILES.items()}

    def at(rank: float) -> float:
        """As np.quantile: linear between the two neighbours in the sorted pixels."""
        low, high = np.searchsorted(upto, [np.floor(rank), np.ceil(rank)], side="right")
        return float(values[low] + (values[high] - values[low]) * (rank - np.floor(rank)))

    return {
        "min": float(values[present[0]]),
        "max": float(values[present[-1]]),
        "mean": mean,
        "std": float(np.sqrt(number @ (values - mean) ** 2 / total)),
        **{name: at(rank) for name, rank in position.items()},
    }
