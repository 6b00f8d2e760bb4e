"""Scene `pick_and_place`: one free object on a table, a bowl, and a hand that grasps (paper, section IV)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from rldg_core.task import Task
from rldg_sim.scene import Scene

if TYPE_CHECKING:
    from rldg_sim.operators.config import Operator, OperatorConfig
    from rldg_sim.scene_model import SceneModel


class PickAndPlaceScene(Scene):
    """Object on the table, at random (uniform +-) around the point below the reset pose; bowl below the target pose."""

    kind: Literal["pick_and_place"] = "pick_and_place"
    object_xy_m: Annotated[float, Field(ge=0, le=0.2)] = 0.09
    object_yaw_rad: Annotated[float, Field(ge=0, le=np.pi)] = 0.5

    def model(self, task: Task, object_name: str) -> SceneModel:
        """See Scene."""
        from rldg_sim.scenes.pick_and_place.model import PickAndPlaceModel

        return PickAndPlaceModel(task, object_name, self.object_xy_m, self.object_yaw_rad)

    def operator(self, config: OperatorConfig, task: Task) -> Operator:
        """See Scene."""
        from rldg_sim.operators.picking import INTO_THE_BOWL, PickOperator

        return PickOperator(config, task, INTO_THE_BOWL)
