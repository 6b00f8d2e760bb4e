"""The gripper of a dataset: absolute, 1 open, 0 closed, as OpenVLA and Octo expect it.

Recorded actions command it: above GRIPPER_THRESHOLD opens, below its negative closes, and HOLD actions never
move it (`rldg_control.gripper_logic`). A dataset holds the commanded state at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rldg_core.types import GRIPPER_THRESHOLD, Float64, Source

OPEN_WIDTH_M = 0.07
"""Before the first command, a hand wider than this counts as open; common ones open to 0.08 m."""


MIN_SPAN = 0.1
"""Minimum range of a command topic, relative to closed .. open; a smaller range is one command with noise."""
HYSTERESIS = 0.1
"""Hysteresis around the middle, relative to the range of the topic."""
BEYOND = 0.25
"""Tolerance of values outside closed .. open."""


def switching(opened: Float64, what: str) -> Float64:
    """Gripper values of another convention, 0 closed .. 1 open, (N,) -> commands, (N,) of -1 and 1.

    A width command need not reach either end: a command from 0.08 m to 0.03 m closes the hand. The threshold is
    therefore the middle of the range of the values, with hysteresis. Raises ValueError `what: ...` on values outside
    closed .. open, and on one constant value between the two.
    """
    low, high = float(opened.min()), float(opened.max())
    if low < -BEYOND or high > 1 + BEYOND:
        raise ValueError(f"{what}: {low:.3g} .. {high:.3g} of the way from closed to open, expected 0 .. 1")
    middle, band = (low + high) / 2, (high - low) * HYSTERESIS
    if high - low < MIN_SPAN:
        if abs(middle - 0.5) < 0.5 - BEYOND:
            raise ValueError(
                f"{what}: stays at {middle:.2g} of the way from closed to open, expected commands that open or close"
            )
        return np.full(len(opened), 1.0 if middle > 0.5 else -1.0)
    decided = np.where(opened > middle + band, 1.0, np.where(opened < middle - band, -1.0, 0.0))
    decided[0] = decided[0] or (1.0 if opened[0] > middle else -1.0)
    last: NDArray[np.intp] = np.maximum.accumulate(np.where(decided != 0, np.arange(len(opened)), 0))
    commands: Float64 = decided[last]
    return commands


def at_start(width_m: float) -> float:
    """Return the gripper's state before its first command, 0 or 1; open (1) for an unknown width (NaN).

    Same rule as the gripper node.
    """
    return 0.0 if width_m <= OPEN_WIDTH_M else 1.0


def opening(commands: Float64, sources: Sequence[Source], start_width_m: float) -> Float64:
    """(N,) commands in [-1, 1] -> (N,) 0 or 1; NaN stays NaN. start_width_m: measured at the first step, may be NaN."""
    acts = np.array([source not in (Source.HOLD, Source.NONE) for source in sources], dtype=np.bool_)
    moves = acts & (np.abs(commands) > GRIPPER_THRESHOLD)
    commanded: NDArray[np.intp] = np.maximum.accumulate(np.where(moves, np.arange(len(commands)), -1))
    opened: Float64 = np.where(commanded < 0, at_start(start_width_m), commands[commanded] > 0).astype(np.float64)
    opened[np.isnan(commands)] = np.nan
    return opened
