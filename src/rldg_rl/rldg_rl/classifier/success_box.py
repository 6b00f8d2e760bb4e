"""HIL-SERL's check of the proprioception: success counts only where the tcp was when the task succeeded before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rldg_core.frames import offset_from
from rldg_core.task import BoxConfig, Task
from rldg_core.types import Float64
from rldg_rl.classifier.frames import Frame

MARGIN_M, MARGIN_RAD = 1e-3, 0.02
"""Added on every side of what the successes span."""


def learn_box(frames: Sequence[Frame], task: Task) -> BoxConfig | None:
    """Box of the tcp's offset from the task's target pose over all successes; None when one has no pose."""
    poses = [f.pose_base_tcp for f in frames if f.success]
    if not poses or any(pose is None for pose in poses):
        return None
    offsets = np.array([offset_from(task.target_pose_base_tcp, pose) for pose in poses if pose is not None])
    margin = np.array([MARGIN_M] * 3 + [MARGIN_RAD] * 3)
    low, high = offsets.min(0) - margin, offsets.max(0) + margin
    return BoxConfig(low=tuple(low.tolist()), high=tuple(high.tolist()))


def in_box(box: BoxConfig | None, task: Task, pose_base_tcp: Float64) -> bool:
    """Whether the tcp's offset from the target pose lies in the box; without one, always."""
    if box is None:
        return True
    offset = offset_from(task.target_pose_base_tcp, pose_base_tcp)
    return bool(np.all(offset >= np.array(box.low)) and np.all(offset <= np.array(box.high)))
