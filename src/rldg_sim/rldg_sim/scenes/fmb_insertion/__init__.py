"""Scene `fmb_insertion`: a peg held in the hand, a board with its hole at random on the table.

After the Functional Manipulation Benchmark (Luo et al., "FMB", IJRR 2024) as the paper uses it (section IV): 1.5 mm
tolerance, board anywhere in 35 x 35 cm and rotated by up to 15 degrees, arm 15 cm above it.
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


LENGTH_SCALE = 3.0
"""Of the operator's lengths, which are those for connectors: the fit is coarser."""


class FmbInsertionScene(Scene):
    """Peg in the hand, board on the table at random (uniform +-): the board's middle, its yaw, and the grasp.

    grasp_x_m: along the finger pads; grasp_z_m: along the tool; grasp_pitch_rad: about the axis through both pads.
    Across the pads and about the other axes the fingers leave no freedom.
    """

    kind: Literal["fmb_insertion"] = "fmb_insertion"
    board_xy_m: Annotated[float, Field(ge=0, le=0.2)] = 0.075
    board_yaw_rad: Annotated[float, Field(ge=0, le=np.pi)] = 0.2618
    grasp_x_m: Annotated[float, Field(ge=0, le=0.02)] = 0.002
    grasp_z_m: Annotated[float, Field(ge=0, le=0.01)] = 0.002
    grasp_pitch_rad: Annotated[float, Field(ge=0, le=0.3)] = 0.02

    def model(self, task: Task, object_name: str) -> SceneModel:
        """See Scene."""
        from rldg_sim.scenes.fmb_insertion.model import FmbInsertionModel

        board = self.board_xy_m, self.board_yaw_rad
        grasp = self.grasp_x_m, self.grasp_z_m, self.grasp_pitch_rad
        return FmbInsertionModel(task, object_name, board, grasp)

    def operator(self, config: OperatorConfig, task: Task) -> Operator:
        """See Scene."""
        from rldg_sim.operators.insertion import InsertionOperator

        return InsertionOperator(config, task, LENGTH_SCALE)
