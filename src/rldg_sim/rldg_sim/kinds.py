"""The kinds of scene by name, as task files say them in `scene.kind`."""

from __future__ import annotations

from rldg_core.task import Task
from rldg_sim.assembly import Assembly
from rldg_sim.connector_insertion import ConnectorInsertion
from rldg_sim.fmb_insertion import FmbInsertion
from rldg_sim.pick_and_place import PickAndPlace
from rldg_sim.scene import SceneKind


def make_kind(task: Task, object_name: str) -> SceneKind:
    """The task's kind of scene with one object. Raises UserError on an object that the kind does not have."""
    match task.scene.kind:
        case "connector":
            return ConnectorInsertion(task, object_name)
        case "fmb_insertion":
            return FmbInsertion(task, object_name)
        case "pick_and_place":
            return PickAndPlace(task, object_name)
        case "assembly":
            return Assembly(task, object_name)
