"""What an episode cost: force, time, path and jerk, from its Steps, and one score of them.

The score follows the public rule of the AI for Industry Challenge (Intrinsic, 2026): insertion 75,
duration 12, smoothness 6, path 6 points, and 12 less where more than 20 N were exceeded for over 1 s. Not taken from
the rule: the point for a valid submission, the points for an insertion that is not complete, and the penalty for
contacts off limits, which Steps do not show. So an episode gets at most 99 points, and a failed one none.

Steps hold one sample per control period: peaks between two samples are not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from rldg_core.from_msg import NS_PER_S
from rldg_core.types import Step

FORCE_LIMIT_N = 20.0
FORCE_LIMIT_S = 1.0
MOVING_M_S = 0.01
"""Jerk counts only above this speed, so that standing still does not dilute its mean."""
JERK_WINDOW = 5
"""Samples of the Savitzky-Golay filter, a quadratic fit to the velocity. The rule has 15 at a higher rate."""
_MAX_JERK_M_S3 = 50.0
_DURATION_S = (5.0, 60.0)
_DETOUR_M = 1.0

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EpisodeCost:
    """Cost of one episode.

    peak_force_n: largest force at the tcp; over_limit_s: time over FORCE_LIMIT_N; impulse_n_s: force over time;
    path_m: way of the tcp; direct_m: distance between its first and last position; jerk_m_s3: mean while it moves.
    """

    success: bool
    duration_s: float
    peak_force_n: float
    over_limit_s: float
    impulse_n_s: float
    path_m: float
    direct_m: float
    jerk_m_s3: float

    @property
    def score(self) -> float:
        """Points of the rule, -12 to 99."""
        penalty = 12.0 if self.over_limit_s > FORCE_LIMIT_S else 0.0
        if not self.success:
            return 0.0 - penalty
        first_s, last_s = _DURATION_S
        duration = 12.0 * _part((last_s - self.duration_s) / (last_s - first_s))
        smoothness = 6.0 * _part(1.0 - self.jerk_m_s3 / _MAX_JERK_M_S3)
        path = 6.0 * _part(1.0 - (self.path_m - self.direct_m) / _DETOUR_M)
        return 75.0 + duration + smoothness + path - penalty


def episode_cost(steps: Sequence[Step]) -> EpisodeCost:
    """Return the cost of an episode with at least two Steps, the last one included. Raises ValueError on fewer."""
    if len(steps) < 2:
        raise ValueError(f"{len(steps)} Steps, expected at least 2")
    stamps_s = np.array([step.observation.stamp_ns for step in steps], np.float64) / NS_PER_S
    positions = np.array([step.observation.pose_base_tcp[:3] for step in steps])
    forces_n = np.linalg.norm([step.observation.wrench_tcp[:3] for step in steps], axis=1)
    periods_s = np.diff(stamps_s)
    ways_m = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    # A force is taken to have lasted for the period that ends with its sample.
    return EpisodeCost(
        success=steps[-1].success,
        duration_s=float(stamps_s[-1] - stamps_s[0]),
        peak_force_n=float(forces_n.max()),
        over_limit_s=float(periods_s[forces_n[1:] > FORCE_LIMIT_N].sum()),
        impulse_n_s=float(forces_n[1:] @ periods_s),
        path_m=float(ways_m.sum()),
        direct_m=float(np.linalg.norm(positions[-1] - positions[0])),
        jerk_m_s3=_jerk(positions, periods_s),
    )


def mean_costs(costs: Iterable[EpisodeCost]) -> dict[str, float]:
    """Return the mean of every value and of the score, and the largest `peak_force_n`; empty without episodes."""
    known = list(costs)
    if not known:
        return {}
    names = [field.name for field in fields(EpisodeCost) if field.name != "success"]
    means = {name: float(np.mean([getattr(cost, name) for cost in known])) for name in names}
    means["max_force_n"] = max(cost.peak_force_n for cost in known)
    means["score"] = float(np.mean([cost.score for cost in known]))
    return means


def _jerk(positions: _Floats, periods_s: _Floats) -> float:
    """Mean linear jerk [m/s^3] while the tcp moves; 0 when it does not, or where there are too few samples."""
    velocities = np.diff(positions, axis=0) / periods_s[:, None]
    if len(velocities) < JERK_WINDOW:
        return 0.0
    second = savgol_filter(velocities, JERK_WINDOW, 2, deriv=2, delta=float(np.median(periods_s)), axis=0)
    moving = np.linalg.norm(velocities, axis=1) > MOVING_M_S
    return float(np.linalg.norm(second[moving], axis=1).mean()) if moving.any() else 0.0


def _part(value: float) -> float:
    return min(1.0, max(0.0, value))
