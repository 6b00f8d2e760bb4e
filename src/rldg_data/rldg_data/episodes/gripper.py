"""The gripper of a dataset: absolute, 1 open, 0 closed, as OpenVLA and Octo expect it.

Recorded actions command it: over +COMMAND opens, under -COMMAND closes, between keeps what is, and the HOLD source
never moves it (`rldg_control.gripper_logic`). A dataset says at every step what the gripper has been told to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rldg_core.types import Float64, Source

COMMAND = 0.5
OPEN_WIDTH_M = 0.07
"""Before the first command: a Franka Hand (0.08 m) that is wider than this holds nothing."""


def opening(commands: Float64, sources: Sequence[Source], start_width_m: float) -> Float64:
    """(N,) commands in [-1, 1] -> (N,) 0 or 1; NaN stays NaN. start_width_m: measured at the first step, may be NaN."""
    acts = np.array([source not in (Source.HOLD, Source.NONE) for source in sources], dtype=np.bool_)
    moves = acts & (np.abs(commands) > COMMAND)
    # A hand whose width nobody measures is open until it is told otherwise, as the gripper node sees it.
    start = 0.0 if start_width_m <= OPEN_WIDTH_M else 1.0
    told: NDArray[np.intp] = np.maximum.accumulate(np.where(moves, np.arange(len(commands)), -1))
    opened: Float64 = np.where(told < 0, start, commands[told] > 0).astype(np.float64)
    opened[np.isnan(commands)] = np.nan
    return opened
