"""The scripted operator for assembly: the picking operator up to the board, then the insertion operator."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.task import Task
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.operators.insertion import InsertionOperator
from rldg_sim.operators.picking import CarryParameters, PickOperator, perceive
from rldg_sim.scenes.fmb_insertion import LENGTH_SCALE
from rldg_sim.scenes.fmb_insertion.model import TIP_M

Array = NDArray[np.float64]

# A little above the ideal grasp, as the hand ends a little below where people aim, and must not reach the board.
# Carried with the tcp 15 cm over where it ends: there the specialist of fmb_insertion_region starts.
TO_THE_BOARD = CarryParameters(grasp_m=TIP_M + 0.011, carry_height_m=0.12, arrived_m=0.02, lets_go=False)


class AssemblyOperator:
    """One of the two acts at a time; each starts again when it takes over."""

    def __init__(self, config: OperatorConfig, task: Task) -> None:
        self._pick = PickOperator(config, task, TO_THE_BOARD)
        self._insert = InsertionOperator(config, task, LENGTH_SCALE)
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
        """See Operator."""
        seen = perceive(wrench_tcp, object_to_goal, object_to_tcp, gripper_width_m, TO_THE_BOARD.grasp_m)
        facts = (pose_base_tcp, wrench_tcp, object_to_goal, object_to_tcp, gripper_width_m, time_s)
        self._inserting = self._pick.holds(seen) if self._inserting else self._pick.carries(seen)
        if not self._inserting:
            return self._pick.act(*facts)
        action, active = self._insert.act(*facts)
        return np.append(action, 0.0), active
