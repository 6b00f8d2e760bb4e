"""Scene `assembly`: a free peg that stands on the table, and the board of FMB Insertion (paper, section IV).

FMB Single-Object Assembly: grasp the peg about 20 cm from the board, carry it there, insert it. How the peg sits in
the hand is what the grasp made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from rldg_core.task import Task
from rldg_sim.scene import Scene

if TYPE_CHECKING:
    from rldg_sim.operators.config import Operator, OperatorConfig
    from rldg_sim.scene_model import SceneModel


class AssemblyScene(Scene):
    """Peg that stands on the table, at random (uniform +-) below the reset pose, and a board around the target pose."""

    kind: Literal["assembly"] = "assembly"
    peg_xy_m: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    peg_yaw_rad: Annotated[float, Field(ge=0, le=np.pi)] = 0.2618
    board_xy_m: Annotated[float, Field(ge=0, le=0.2)] = 0.025
    board_yaw_rad: Annotated[float, Field(ge=0, le=np.pi)] = 0.2618

    def model(self, task: Task, object_name: str) -> SceneModel:
        """See Scene."""
        from rldg_sim.scenes.assembly.model import AssemblyModel

        peg, board = (self.peg_xy_m, self.peg_yaw_rad), (self.board_xy_m, self.board_yaw_rad)
        return AssemblyModel(task, object_name, peg, board)

    def operator(self, config: OperatorConfig, task: Task) -> Operator:
        """See Scene."""
        from rldg_sim.scenes.assembly.operator import AssemblyOperator

        return AssemblyOperator(config, task)
