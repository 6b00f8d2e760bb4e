"""dataset_statistics.json: what a generalist needs to normalise actions and proprioception, in constant memory.

Rows are read from scratch files, twice: the first pass finds mean, variance, extremes and, of every column, how many
values begin with which 16 bits; the second looks only at the values that share the 16 bits of a wanted order
statistic. Quantiles are therefore exact: numpy's linear interpolation between the two neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_data.episode import ACTION_DIM, STATE_DIM, Episode, Float32

ACTION_MASK = (True, True, True, True, True, True, False)
"""Which action dimensions are normalised: all but the gripper, which is absolute in [0, 1]."""

ROW_DIM = ACTION_DIM + STATE_DIM
QUANTILES = {"q01": 0.01, "q99": 0.99, "p01": 0.01, "p99": 0.99}
"""Both names in use: q01/q99 (OpenVLA) and p01/p99 (Octo)."""

_CHUNK_ROWS = 1 << 15
_HALF = 1 << 16


def rows_of(episode: Episode) -> Float32:
    """(T, 15): action and state of every transition; the last step has no action."""
    return np.concatenate([episode.action[:-1], episode.state[:-1]], axis=1, dtype=np.float32)


def dataset_statistics(files: Sequence[Path], episodes: int) -> Mapping[str, Any]:
    """Statistics of the rows (`rows_of`) in files of raw little-endian float32."""
    columns = column_statistics(files, ROW_DIM)
    action = {name: values[:ACTION_DIM].tolist() for name, values in columns.values.items()}
    proprio = {name: values[ACTION_DIM:].tolist() for name, values in columns.values.items()}
    return {
        "action": {**action, "mask": list(ACTION_MASK)},
        "proprio": proprio,
        "num_transitions": columns.count,
        "num_trajectories": episodes,
    }


@dataclass(frozen=True)
class ColumnStatistics:
    """count: of rows; values: mean, std, min, max and QUANTILES -> (D,) float64."""

    count: int
    values: Mapping[str, NDArray[np.float64]]


def column_statistics(files: Sequence[Path], dim: int) -> ColumnStatistics:
    """Statistics of every column. Memory does not grow with the rows; there must be at least one, all finite."""
    count, mean, squares = 0, np.zeros(dim), np.zeros(dim)
    low, high = np.full(dim, np.inf), np.full(dim, -np.inf)
    upper = np.zeros((dim, _HALF), np.int64)
    for rows in _chunks(files, dim):
        # Chan, Golub, LeVeque 1979: merging keeps the variance of values far from zero.
        values = rows.astype(np.float64)
        chunk_mean = values.mean(axis=0)
        delta, total = chunk_mean - mean, count + len(rows)
        squares += ((values - chunk_mean) ** 2).sum(axis=0) + delta**2 * (count * len(rows) / total)
        mean += delta * (len(rows) / total)
        count = total
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
        keys = _ordered(rows) >> 16
        for column in range(dim):
            upper[column] += np.bincount(keys[:, column], minlength=_HALF)
    ranks = {rank for q in QUANTILES.values() for rank in _neighbours(count, q)}
    found = _order_statistics(files, upper, sorted(ranks))
    named = {"mean": mean, "std": np.sqrt(squares / count), "min": low, "max": high}
    return ColumnStatistics(count, {**named, **{name: _quantile(found, count, q) for name, q in QUANTILES.items()}})


def _neighbours(count: int, q: float) -> tuple[int, int]:
    rank = math.floor((count - 1) * q)
    return rank, min(rank + 1, count - 1)


def _quantile(found: Mapping[int, NDArray[np.float64]], count: int, q: float) -> NDArray[np.float64]:
    """Interpolate as numpy does, so that even the last bit agrees."""
    below, above = (found[rank] for rank in _neighbours(count, q))
    share = (count - 1) * q - math.floor((count - 1) * q)
    step = above - below
    return above - step * (1 - share) if share >= 0.5 else below + step * share


def _order_statistics(
    files: Sequence[Path], upper: NDArray[np.int64], ranks: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """Rank (from 0) -> (D,) values of that rank. upper (D, 65536): histogram of the upper halves of the keys."""
    dim = len(upper)
    before = np.cumsum(upper, axis=1)
    halves = {
        (column, rank): int(np.searchsorted(before[column], rank, "right")) for column in range(dim) for rank in ranks
    }
    lower = {(column, half): np.zeros(_HALF, np.int64) for (column, _), half in halves.items()}
    for rows in _chunks(files, dim):
        keys = _ordered(rows)
        tops, rests = keys >> 16, keys & (_HALF - 1)
        for column, half in lower:
            lower[column, half] += np.bincount(rests[tops[:, column] == half, column], minlength=_HALF)
    found = {rank: np.empty(dim) for rank in ranks}
    for (column, rank), half in halves.items():
        passed = before[column, half] - upper[column, half]
        rest = int(np.searchsorted(np.cumsum(lower[column, half]), rank - passed, "right"))
        found[rank][column] = _value(half << 16 | rest)
    return found


def _ordered(rows: Float32) -> NDArray[np.uint32]:
    """float32 -> uint32 of the same order: negative numbers inverted, the others above them."""
    bits = rows.view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _value(key: int) -> float:
    """Inverse of `_ordered`."""
    bits = key & 0x7FFFFFFF if key >> 31 else ~key & 0xFFFFFFFF
    return float(np.array(bits, np.uint32).view(np.float32))


def _chunks(files: Sequence[Path], dim: int) -> Iterator[Float32]:
    """Blocks of at most _CHUNK_ROWS rows, none of them empty."""
    for file in files:
        with file.open("rb") as stream:
            while data := stream.read(_CHUNK_ROWS * dim * 4):
                yield np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, dim)
