"""When frames over the threshold count as success of the task: where the tcp is, and for how many frames in a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rldg_core.frames import offset_from
from rldg_core.task import BoxConfig, Task
from rldg_core.types import Float64
from rldg_rl.classifier.frames import Frame

MARGIN_M, MARGIN_RAD = 1e-3, 0.02
"""Margin added to each side of the box."""
GAP_PERIODS = 1.5
"""A longer interval between two frames restarts the count: a frame was lost, or a reset took two periods."""


def learn_box(frames: Sequence[Frame], task: Task) -> BoxConfig | None:
    """Return the bounding box of the tcp's offset from the target pose at all successes; None without all poses."""
    poses = [f.pose_base_tcp for f in frames if f.success]
    if not poses or any(pose is None for pose in poses):
        return None
    offsets = np.array([offset_from(task.target_pose_base_tcp, pose) for pose in poses if pose is not None])
    margin = np.array([MARGIN_M] * 3 + [MARGIN_RAD] * 3)
    low, high = offsets.min(0) - margin, offsets.max(0) + margin
    return BoxConfig(low=tuple(low.tolist()), high=tuple(high.tolist()))


def in_box(box: BoxConfig | None, task: Task, pose_base_tcp: Float64) -> bool:
    """Return whether the tcp's offset from the target pose lies in the box; True without a box."""
    if box is None:
        return True
    offset = offset_from(task.target_pose_base_tcp, pose_base_tcp)
    return bool(np.all(offset >= np.array(box.low)) and np.all(offset <= np.array(box.high)))


class Hysteresis:
    """Detects success after `consecutive_frames` frames over the threshold. Depends on stamps, not on arrival times."""

    def __init__(self, consecutive_frames: int, period_ns: int) -> None:
        """consecutive_frames: 1 or more. Raises ValueError otherwise."""
        if consecutive_frames < 1:
            raise ValueError(f"consecutive_frames: expected 1 or more, got {consecutive_frames}")
        self._wanted, self._gap_ns = consecutive_frames, round(GAP_PERIODS * period_ns)
        self._run: list[int] = []

    def start(self, first_stamp_ns: int) -> None:
        """Start an episode at this stamp: frames before it no longer count.

        May be called after frames of the new episode: START and observations are on different topics.
        """
        self._run = [stamp for stamp in self._run if stamp >= first_stamp_ns]

    def update(self, stamp_ns: int, over: bool) -> bool:
        """Add the next frame and return whether the task has succeeded. over: the frame meets all other conditions."""
        if self._run and not 0 < stamp_ns - self._run[-1] <= self._gap_ns:
            self._run = []
        self._run = [*self._run, stamp_ns][-self._wanted :] if over else []
        return len(self._run) == self._wanted
