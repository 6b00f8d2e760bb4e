"""The back-end `scripted`: insert at the nominal target pose, with a spiral search when the plug is blocked.

It uses pose and wrench only. It represents a controller programmed without vision, the baseline for learned policies.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldg_core.frames import delta_between
from rldg_core.policy import PolicySpec
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.checkpoint.early import no_checkpoint

ALIGNED_M, ALIGNED_RAD = 0.0015, 0.02
"""Misalignment with the target axis below which the plug descends."""
CLEARANCE_M = 0.02
"""Height above the target pose without contact: above it, the plug aligns and descends at the same time."""
DESCENT_M = 0.004
"""Descent per step, once aligned and within the clearance."""
BLOCKED_N = 5.0
"""Force along the tool axis above which the plug rests on the face of the port."""
SPIRAL_STEP_M, SPIRAL_TURN_RAD, SPIRAL_MAX_M = 0.0001, 0.7, 0.0015


class ScriptedPolicy:
    """Align, descend, search. `path` must be None; `explore` adds noise with a tenth of the action scale."""

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        no_checkpoint("scripted", path, task)
        self.spec = PolicySpec((), 0, 1, task.action.dim, 1, task.rates.control_hz)
        self._task = task
        self._noise = 0.1 if explore else 0.0
        self.reset("", 0)

    def warm_up(self) -> None:
        """Do nothing: there is nothing to compile."""

    def reset(self, instruction: str, seed: int) -> None:
        """Start an episode: `seed` determines the start of the spiral and the noise."""
        self._rng = np.random.default_rng(derive_seed(seed, "scripted"))
        self._angle_rad = float(self._rng.uniform(-np.pi, np.pi))
        self._radius_m = 0.0

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return one step towards the target pose of the task, (1, A) in [-1, 1]."""
        delta_tcp = delta_between(observation.pose_base_tcp, self._task.target_pose_base_tcp)
        aligned = np.hypot(*delta_tcp[:2]) < ALIGNED_M + self._radius_m and abs(delta_tcp[5]) < ALIGNED_RAD
        if aligned:
            if abs(observation.wrench_tcp[2]) > BLOCKED_N:
                self._radius_m = min(self._radius_m + SPIRAL_STEP_M, SPIRAL_MAX_M)
                self._angle_rad += SPIRAL_TURN_RAD
            delta_tcp[:2] += self._radius_m * np.array([np.cos(self._angle_rad), np.sin(self._angle_rad)])
            delta_tcp[2] = min(delta_tcp[2], DESCENT_M)
        else:
            delta_tcp[2] = max(delta_tcp[2] - CLEARANCE_M, 0.0)
        action = self._task.action.from_delta_tcp(delta_tcp)
        action += self._rng.normal(0.0, self._noise, 6) if self._noise else 0.0
        gripper = [-1.0] * (self.spec.action_dim - 6)
        chunk: NDArray[np.float32] = np.clip(np.array([[*action, *gripper]]), -1.0, 1.0).astype(np.float32)
        return chunk

    def close(self) -> None:
        """Do nothing: no resources are held."""
