"""What a kind of scene must offer: its configuration, one model per object, and a scripted operator.

A kind is a subclass of `Scene` under an entry point of group `rldg.scenes` (`rldg_core.scenes`); rldg_sim.scenes
holds ours. Every command and node that reads a task imports the module of its scene: ours import geometry, MuJoCo
and operators where they are first used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from rldg_core.errors import UserError
from rldg_core.scenes import SceneConfig
from rldg_core.task import FixedMount, Task

if TYPE_CHECKING:
    from rldg_sim.operators.config import Operator, OperatorConfig
    from rldg_sim.scene_model import SceneModel


class Scene(SceneConfig, ABC):
    """Configuration of a kind of scene that can be simulated."""

    specialist: ClassVar[Mapping[str, Any]] = {"preset": "tabletop"}

    @abstractmethod
    def model(self, task: Task, object_name: str) -> SceneModel:
        """Return the scene with one object. Raises UserError on an object that it does not have."""

    @abstractmethod
    def operator(self, config: OperatorConfig, task: Task) -> Operator:
        """Return a scripted operator for the task."""


def simulated(task: Task) -> Scene:
    """Return the task's scene. Raises UserError when it cannot be simulated."""
    if not isinstance(task.scene, Scene):
        found = type(task.scene)
        raise UserError(
            f"task {task.name}: scene kind {task.scene.kind!r} ({found.__module__}.{found.__name__}) cannot be "
            "simulated: expected a subclass of rldg_sim.scene.Scene"
        )
    return task.scene


def fixed_cameras(task: Task) -> dict[str, FixedMount]:
    """Cameras of a task that stand beside the arm. Raises UserError when more than one is left for the wrist."""
    wrist = [name for name, camera in task.cameras.items() if camera.mount is None]
    if len(wrist) > 1:
        raise UserError(
            f"task {task.name}: cameras.{wrist[1]}: has no mount, and the simulated wrist carries {wrist[0]} already: "
            "say where it stands (mount: position_base_m, aim_base_m)"
        )
    return {name: camera.mount for name, camera in task.cameras.items() if camera.mount is not None}


def make_operator(config: OperatorConfig, task: Task) -> Operator:
    """Return the scripted operator of a task's scene."""
    return simulated(task).operator(config, task)
