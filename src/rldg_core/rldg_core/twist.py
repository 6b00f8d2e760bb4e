"""Twist of the tcp from its measured poses: one rule for the stack's observer and for the cell without ROS."""

from __future__ import annotations

import numpy as np

from rldg_core.frames import rotation_of
from rldg_core.from_msg import NS_PER_S
from rldg_core.types import Float64

GAP_PERIODS = 1.5
"""A longer gap between two observations is a reset or a drop-out: no velocity is computed over it."""


class TwistEstimator:
    """Twist of the tcp (6,) in base axes [m/s, rad/s] by differentiating the measured pose.

    Drivers of arms need not publish a measured twist (docs/how-to/hardware.md). The filter is the backward difference
    over one control period - the mean twist between two observations - so it has no state beyond the previous
    pose, needs no tuning and gives the same numbers in lock-step and in real time. Zero for the first
    pose, after a gap of more than `GAP_PERIODS` periods (a drop-out; a simulated reset, which must therefore
    move the clock on by two periods: an event would race with the first frame), and when time goes back.
    """

    def __init__(self, period_ns: int) -> None:
        self._gap_ns = int(GAP_PERIODS * period_ns)
        self._previous: tuple[int, Float64] | None = None

    def update(self, pose_stamp_ns: int, pose_base_tcp: Float64) -> Float64:
        """Return the twist at this pose, (6,) linear, angular."""
        previous, self._previous = self._previous, (pose_stamp_ns, pose_base_tcp)
        if previous is None or not 0 < pose_stamp_ns - previous[0] <= self._gap_ns:
            return np.zeros(6)
        elapsed_s = (pose_stamp_ns - previous[0]) / NS_PER_S
        turn_base = rotation_of(pose_base_tcp) * rotation_of(previous[1]).inv()
        return np.concatenate([pose_base_tcp[:3] - previous[1][:3], turn_base.as_rotvec()]) / elapsed_s
