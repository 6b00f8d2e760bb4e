"""A scripted operator for Assembly: the picking operator up to the board, then the insertion operator.

Whichever has the mouse, the other one starts afresh when its turn comes (again).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.task import Task
from rldg_sim.operator import OperatorConfig, ScriptedOperator
from rldg_sim.operator_pick import TO_THE_BOARD, PickOperator, seen_from

Array = NDArray[np.float64]


class AssemblyOperator:
    """Pure operator: call reset(seed) per episode and act(...) once per observation, in order."""

    def __init__(self, config: OperatorConfig, task: Task) -> None:
        self._pick = PickOperator(config, task, TO_THE_BOARD)
        self._insert = ScriptedOperator(config, task)
        self._inserting = False

    def reset(self, seed: int) -> None:
        """Start an episode."""
        self._pick.reset(seed)
        self._insert.reset(seed)
        self._inserting = False

    def act(
        self,
        pose_base_tcp: ArrayLike,
        wrench_tcp: ArrayLike,
        object_to_goal: ArrayLike,
        object_to_tcp: ArrayLike,
        gripper_width_m: float,
        time_s: float,
    ) -> tuple[Array, bool]:
        """As PickOperator.act: (7,) in [-1, 1], and whether the mouse is touched."""
        seen = seen_from(wrench_tcp, object_to_goal, object_to_tcp, gripper_width_m, TO_THE_BOARD.grasp_m)
        facts = (pose_base_tcp, wrench_tcp, object_to_goal, object_to_tcp, gripper_width_m, time_s)
        self._inserting = self._pick.holds(seen) if self._inserting else self._pick.carries(seen)
        if not self._inserting:
            return self._pick.act(*facts)
        action, active = self._insert.act(*facts)
        return np.append(action, 0.0), active
