"""What the cell needs of a scene with one object: its models, what differs between episodes, the truth about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.task import Task
from rldg_sim.randomisation import start_pose

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of one instant.

    object_to_goal, object_to_tcp (7,): pose of the manipulated object's reference in the goal's and in the tcp's
    frame; success, failure: whether the episode is won or lost now.
    """

    object_to_goal: Array
    object_to_tcp: Array
    success: bool
    failure: bool = False


class SceneModel(ABC):
    """One object of a scene: its models, what differs between episodes, and the truth about it.

    The physical and the drawn model have the same joints in the same order, the arm's seven first; the physical
    model's first actuators are those of `rldg_sim.mjcf.actuators` and its mocap body 0 is "target".
    """

    felt_bodies: tuple[str, ...]
    """Bodies of the hand whose contacts the wrist's force sensor feels."""

    def __init__(self, task: Task) -> None:
        self._task = task

    @abstractmethod
    def physics_mjcf(self) -> str:
        """Return the model of what moves and touches."""

    @abstractmethod
    def drawn_mjcf(self) -> str:
        """Return the model of what cameras see, with the cameras "wrist" and "scene"."""

    def start_pose(self, seed: int) -> Array:
        """Return the start pose (7,) of the tcp in base: uniform around the task's reset pose."""
        return start_pose(self._task, seed)

    @abstractmethod
    def place(self, model: Any, seed: int) -> None:
        """Write what stays through this seed's episode into a model, physical or drawn (body poses)."""

    @abstractmethod
    def restart(self, model: Any, data: Any, seed: int) -> None:
        """Complete the start state of the physical model, whose arm is at the start pose (free objects, fingers)."""

    def resist(self, model: Any, data: Any) -> None:
        """Update forces that depend on the state; called every CHUNK_STEPS physics steps, not in the ideal cell.

        By default nothing resists but geometry.
        """
        return

    @abstractmethod
    def truth(self, model: Any, data: Any) -> GroundTruth:
        """Return the ground truth of the present state, whose derived quantities are up to date; once per frame."""

    @abstractmethod
    def command_gripper(self, data: Any, width_m: float) -> None:
        """Command the fingers' distance [m] until the next command."""

    @abstractmethod
    def gripper_width_m(self, data: Any) -> float:
        """Return the fingers' distance [m]."""


class HeldObject(SceneModel):
    """An object held so firmly that fingers and commands to them do not matter."""

    grip_m: float

    def restart(self, model: Any, data: Any, seed: int) -> None:
        """Do nothing: only the arm moves."""

    def command_gripper(self, data: Any, width_m: float) -> None:
        """Do nothing: the object cannot be released."""

    def gripper_width_m(self, data: Any) -> float:
        """Return the width of the grip."""
        return self.grip_m
