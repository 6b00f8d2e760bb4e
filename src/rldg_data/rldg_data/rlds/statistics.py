"""dataset_statistics.json: normalisation of actions and proprioception, computed in constant memory.

Rows are read from scratch files four times: once for mean, variance and extremes, and three times for the order
statistics, by a radix selection of eleven bits at a time. Quantiles are therefore exact: numpy's linear
interpolation between the two neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_data.episodes.episode import ACTION_DIM, STATE_DIM, Episode, Float32

ACTION_MASK = (True, True, True, True, True, True, False)
"""Which action dimensions are normalised: all but the gripper, which is absolute in [0, 1]."""

ROW_DIM = ACTION_DIM + STATE_DIM
QUANTILES = {"q01": 0.01, "q99": 0.99, "p01": 0.01, "p99": 0.99}
"""Both names in use: q01/q99 (OpenVLA) and p01/p99 (Octo)."""

_CHUNK_ROWS = 1 << 15
_DIGIT_BITS = (11, 11, 10)


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


def read_columns(stored: Mapping[str, Any], dim: int, where: str) -> dict[str, NDArray[np.float64]]:
    """Parse stored statistics: name -> (dim,), those of mean, std, min, max and QUANTILES that exist.

    "mask": (dim,) booleans; all true by default, as upstream. Raises UserError `where: reason`
    unless all have `dim` finite numbers, min <= q01 <= q99 <= max (p01 and p99 likewise), the mean lies between min and
    max, std >= 0, and the mask is not all false.
    """
    mask = stored.get("mask", [True] * dim)
    if not isinstance(mask, list) or len(mask) != dim or not all(isinstance(value, bool) for value in mask):
        raise UserError(f"{where}: mask: expected {dim} booleans")
    if not any(mask):
        raise UserError(f"{where}: mask: all false: nothing would be normalised; expected true except for the gripper")
    known = {name: _numbers(stored[name], dim, f"{where}: {name}") for name in _NAMES if name in stored}
    if "std" in known:
        _refuse_above("0", np.zeros(dim), "std", known["std"], where)
    for low, high in _ORDER:
        if low in known and high in known:
            _refuse_above(low, known[low], high, known[high], where)
    return {**known, "mask": np.array(mask)}


def _numbers(values: Any, dim: int, where: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: expected {dim} numbers") from error
    if numbers.shape != (dim,) or not np.isfinite(numbers.astype(np.float32)).all():
        got = f"{numbers.size}" if numbers.ndim == 1 else f"shape {numbers.shape}"
        raise UserError(f"{where}: expected {dim} finite numbers, one per component, got {got}")
    return numbers


_NAMES = ("mean", "std", "min", "max", *QUANTILES)
_ORDER = (
    *(("min", name) for name in ("q01", "p01", "mean", "q99", "p99", "max")),
    *((name, "max") for name in ("mean", "q01", "p01", "q99", "p99")),
    ("q01", "q99"),
    ("p01", "p99"),
)
_ROUNDING = 1e-5
"""Relative tolerance of statistics: sums and quantiles in float32."""


def _refuse_above(low: str, lows: NDArray[np.float64], high: str, highs: NDArray[np.float64], where: str) -> None:
    wrong = np.flatnonzero(lows - highs > _ROUNDING * np.maximum(np.abs(lows), np.abs(highs)) + 1e-9)
    if len(wrong):
        k = wrong[0]
        found = f"{high}[{k}] is {highs[k]:g}, below {low}" + (f" {lows[k]:g}" if low != "0" else "")
        raise UserError(f"{where}: {found}: inconsistent statistics (swapped?); compute them again from the data")


@dataclass(frozen=True)
class ColumnStatistics:
    """count: of rows; values: mean, std, min, max and QUANTILES -> (D,) float64."""

    count: int
    values: Mapping[str, NDArray[np.float64]]


def column_statistics(files: Sequence[Path], dim: int) -> ColumnStatistics:
    """Statistics of every column. Memory does not grow with the rows; there must be at least one, all finite."""
    count, mean, squares = 0, np.zeros(dim), np.zeros(dim)
    low, high = np.full(dim, np.inf), np.full(dim, -np.inf)
    for rows in _chunks(files, dim):
        # Chan, Golub, LeVeque 1979: merging keeps the variance of values far from zero.
        values = rows.astype(np.float64)
        chunk_mean = values.mean(axis=0)
        delta, total = chunk_mean - mean, count + len(rows)
        squares += ((values - chunk_mean) ** 2).sum(axis=0) + delta**2 * (count * len(rows) / total)
        mean += delta * (len(rows) / total)
        count = total
        low, high = np.minimum(low, values.min(axis=0)), np.maximum(high, values.max(axis=0))
    ranks = {rank for q in QUANTILES.values() for rank in _neighbours(count, q)}
    found = _order_statistics(files, dim, ranks)
    named = {"mean": mean, "std": np.sqrt(squares / count), "min": low, "max": high}
    return ColumnStatistics(count, {**named, **{name: _quantile(found, count, q) for name, q in QUANTILES.items()}})


def _neighbours(count: int, q: float) -> tuple[int, int]:
    rank = math.floor((count - 1) * q)
    return rank, min(rank + 1, count - 1)


def _quantile(found: Mapping[int, NDArray[np.float64]], count: int, q: float) -> NDArray[np.float64]:
    """Interpolate as numpy does, bit for bit."""
    below, above = (found[rank] for rank in _neighbours(count, q))
    share = (count - 1) * q - math.floor((count - 1) * q)
    step = above - below
    return above - step * (1 - share) if share >= 0.5 else below + step * share


def _order_statistics(files: Sequence[Path], dim: int, ranks: Iterable[int]) -> dict[int, NDArray[np.float64]]:
    """Rank (from 0) -> (D,) values of that rank, by radix selection from the highest bits of the keys on."""
    # (column, rank) -> (bits found so far, rank among the keys that begin with them)
    wanted = {(column, rank): (0, rank) for column in range(dim) for rank in ranks}
    done = 0
    for bits in _DIGIT_BITS:
        known = {(column, prefix) for (column, _), (prefix, _) in wanted.items()}
        counts = _histograms(files, dim, known, done, bits)
        for (column, rank), (prefix, within) in wanted.items():
            below = np.cumsum(counts[column, prefix])
            digit = int(np.searchsorted(below, within, "right"))
            passed = int(below[digit - 1]) if digit else 0
            wanted[column, rank] = (prefix << bits | digit, within - passed)
        done += bits
    return {rank: np.array([_value(wanted[column, rank][0]) for column in range(dim)]) for rank in ranks}


def _histograms(
    files: Sequence[Path], dim: int, known: Iterable[tuple[int, int]], done: int, bits: int
) -> dict[tuple[int, int], NDArray[np.int64]]:
    """(column, prefix) -> histogram of the next `bits` after the prefix of `done` bits."""
    counts = {place: np.zeros(1 << bits, np.int64) for place in known}
    shift = 32 - done - bits
    for rows in _chunks(files, dim):
        keys = np.ascontiguousarray(_ordered(rows).T)
        for column, prefix in counts:
            begun = keys[column]
            if done:
                begun = begun[begun >> (32 - done) == prefix]
            counts[column, prefix] += np.bincount((begun >> shift) & ((1 << bits) - 1), minlength=1 << bits)
    return counts


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
        with file.open("rb") as stream:  # bounded: our own file, in blocks
            while data := stream.read(_CHUNK_ROWS * dim * 4):
                yield np.frombuffer(data, "<f4").astype(np.float32).reshape(-1, dim)
