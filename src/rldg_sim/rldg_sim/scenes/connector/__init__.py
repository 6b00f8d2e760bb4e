"""Scene `connector`: a connector held in the hand, its port fixed on the table (paper, section IV)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from rldg_core.task import Task
from rldg_sim.scene import Scene

if TYPE_CHECKING:
    from rldg_sim.operators.config import Operator, OperatorConfig
    from rldg_sim.scene_model import SceneModel


class ConnectorScene(Scene):
    """Connector in the hand, its port fixed on the table; random grasp offset (uniform +-)."""

    specialist: ClassVar[Mapping[str, Any]] = {"preset": "connector"}

    kind: Literal["connector"] = "connector"
    grasp_xy_m: Annotated[float, Field(ge=0, le=0.01)] = 0.0005
    grasp_yaw_rad: Annotated[float, Field(ge=0, le=0.2)] = 0.01

    def model(self, task: Task, object_name: str) -> SceneModel:
        """See Scene."""
        from rldg_sim.scenes.connector.model import ConnectorModel

        return ConnectorModel(task, object_name, self.grasp_xy_m, self.grasp_yaw_rad)

    def operator(self, config: OperatorConfig, task: Task) -> Operator:
        """See Scene."""
        from rldg_sim.operators.insertion import InsertionOperator

        return InsertionOperator(config, task)
