"""What a stack does differently in real time and in lock-step simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rldg_data.bags.resuming import set_interrupted_aside


class StackPace(Protocol):
    """One of `REAL_TIME` and `LOCK_STEP`."""

    @property
    def node_parameters(self) -> Mapping[str, bool]:
        """The parameters of every node that select the pace (`rldg_ros.pace`)."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Argument -> why it cannot be given."""

    def preload(self, backends: Sequence[str]) -> list[str]:
        """Return the back-ends that the policy node imports at the start."""

    def prepare_resume(self, bag_dir: Path, max_steps: int) -> None:
        """Prepare the bags of a training run that goes on. max_steps: longest episode of the task."""


class RealTime:
    """Pace of the wall clock: ticks are due while a node computes."""

    node_parameters: Mapping[str, bool] = {"lockstep": False, "use_sim_time": False}
    refused: Mapping[str, str] = {}

    def preload(self, backends: Sequence[str]) -> list[str]:
        """Return all: importing torch or jax while ticks are due would miss some."""
        return list(backends)

    def prepare_resume(self, bag_dir: Path, max_steps: int) -> None:
        """Do nothing: an interrupted episode stays as it was recorded."""


class LockStep:
    """Pace of the simulated clock, which waits for every node: no tick can be missed, and a run repeats."""

    node_parameters: Mapping[str, bool] = {"lockstep": True, "use_sim_time": True}
    refused: Mapping[str, str] = {
        "teleop": "a person needs real time (use_sim_time:=false)",
        "http_port": "the simulated clock of lock-step waits for nobody outside (use_sim_time)",
    }

    def preload(self, backends: Sequence[str]) -> list[str]:
        """Return none: a back-end is imported when it is loaded."""
        return []

    def prepare_resume(self, bag_dir: Path, max_steps: int) -> None:
        """Set an interrupted last episode aside, which is then repeated from its seed."""
        set_interrupted_aside(bag_dir, max_steps)


REAL_TIME, LOCK_STEP = RealTime(), LockStep()
