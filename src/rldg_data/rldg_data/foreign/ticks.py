"""Which frames of a camera become observations, and what the other topics held then."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.from_msg import NS_PER_S
from rldg_data.foreign.cutting import Cutout
from rldg_data.foreign.mapping import (
    ForeignMapping,
)
from rldg_data.foreign.topics import (
    Series,
)
from rldg_data.plausibility import Limits, gaps

MAX_REPEATED = 0.05
"""Share of ticks that may lack a camera frame of their own; more of them and the camera is slower than rate_hz."""


def choose_ticks(
    mapping: ForeignMapping, episode: Cutout, camera: Series, others: list[Series]
) -> tuple[NDArray[np.int64], int]:
    """Stamps of the camera frames that become observations, and how many of the grid had none of their own."""
    where = episode.where
    inside = [one.within(episode.begin_ns, episode.end_ns) for one in others]
    for one in inside:
        if not one.values:
            raise UserError(f"{where}: topic {one.topic}: no message in it")
    begin = max(int(one.stamps_ns[0]) for one in inside)
    end = min(int(one.stamps_ns[-1]) for one in inside) + int(_max_age_s(mapping) * NS_PER_S)
    end = min(end, episode.end_ns - 1)
    frames = camera.stamps_ns[(camera.stamps_ns >= begin) & (camera.stamps_ns <= end)]
    if len(frames) < 2:
        spans = "; ".join(f"{one.topic} {one.stamps_ns[0]} to {one.stamps_ns[-1]}" for one in inside)
        raise UserError(f"{where}: topics do not overlap in time: {spans}")
    period_ns = mapping.period_s * NS_PER_S
    grid = frames[0] + np.round(np.arange(int((frames[-1] - frames[0]) / period_ns + 0.5) + 1) * period_ns)
    later = np.clip(np.searchsorted(frames, grid), 1, len(frames) - 1)
    nearest = np.where(grid - frames[later - 1] <= frames[later] - grid, later - 1, later)
    chosen = np.unique(frames[nearest])
    repeated = len(grid) - len(chosen)
    advice = "" if episode.is_cut else "; if these are several, cut them (`episodes` or `cut` in the mapping)"
    for problem in gaps((chosen - chosen[0]) / NS_PER_S, Limits()):
        if problem.severity == "error":
            raise UserError(f"{where}: topic {camera.topic}: {problem.message}{advice}")
    if repeated > MAX_REPEATED * len(grid):
        rate = (len(frames) - 1) / ((frames[-1] - frames[0]) / NS_PER_S)
        raise UserError(f"{where}: topic {camera.topic}: {rate:.2f} frames per second, rate_hz is {mapping.rate_hz:g}")
    if len(chosen) < 2:
        raise UserError(f"{where}: shorter than one step at rate_hz {mapping.rate_hz}")
    return chosen, repeated


def at_ticks(mapping: ForeignMapping, episode: Cutout, one: Series, ticks: NDArray[np.int64]) -> list[Any]:
    """The newest value at every tick. Raises UserError when it is too old."""
    limit_ns = _max_age_s(mapping) * NS_PER_S
    values = []
    for tick in ticks:
        index = one.newest(int(tick))
        age_ns = int(tick) - int(one.stamps_ns[index])
        if age_ns > limit_ns:
            raise UserError(
                f"{episode.where}: topic {one.topic}: nothing for {age_ns / NS_PER_S:.3f} s before {tick}, "
                f"max_age_s is {limit_ns / NS_PER_S:.3f}"
            )
        values.append(one.values[index])
    return values


def _max_age_s(mapping: ForeignMapping) -> float:
    return mapping.max_age_s if mapping.max_age_s is not None else 2 * mapping.period_s
