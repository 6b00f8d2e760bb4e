"""When the physics of the simulated cell advances, and by which clock its frames are stamped.

Lock-step: one control period when everything that belongs to the last frame has arrived; simulated time. Real time: the
physics follows the wall clock, whatever arrives; the last target is kept for ever, as crisp_controllers does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from rldg_core.types import Float64
from rldg_sim.cell import Cell, SensorFrame

IMAGE_PERIOD_S = 1 / 30

SCENE_PERIOD_S = 0.5
"""Period of the third-person view in real time; in lock-step it is published with every frame."""

MAX_LAG_S = 0.1
"""Largest lag behind the wall clock that is caught up [s]; a slower machine runs in slow motion."""

RESET_PERIODS = 2
"""How far a reset moves the simulated clock on: more than one period tells the observer that the pose jumped."""


@dataclass(frozen=True)
class Sample:
    """A frame to publish, the stamp of all its messages, and whether images are due."""

    stamp_ns: int
    frame: SensorFrame
    with_images: bool = True


class CellPace(Protocol):
    """Moves a Cell. Each method returns the frame that is to be published, if there is a new one."""

    publishes_clock: bool
    """Whether stamps are simulated time, which goes to /clock."""

    stamped_widths: bool
    """Whether a gripper width has the stamp of the frame that it answers (`expects`)."""

    def start(self, seed: int) -> Sample | None:
        """Show a scene before the first reset, if the physics runs before it."""

    def reset(self, seed: int, object_name: str) -> Sample:
        """Reset the cell. Raises UserError when the object is unknown; nothing has then changed."""

    def expects(self, stamp_ns: int) -> bool:
        """Return whether a target or width with this stamp can be taken."""

    def take_target(self, target_base_tcp: Float64) -> Sample | None:
        """Take a target (7,) [m, xyzw]."""

    def take_width(self, width_m: float) -> Sample | None:
        """Take a gripper width [m]."""

    def tick(self) -> Sample | None:
        """Follow the wall clock; called every 0.01 s where time-outs apply."""

    def scene_due(self) -> bool:
        """Return whether a third-person view belongs to the images that are published now."""


class LockStepCell:
    """Nothing happens before the first reset; then one period per target (and width) with the last frame's stamp."""

    publishes_clock = True
    stamped_widths = True

    def __init__(self, cell: Cell, first_stamp_ns: int, _now_ns: Callable[[], int]) -> None:
        """first_stamp_ns: where the simulated clock goes on."""
        self._cell, self._task = cell, cell.task
        self._stamp_ns = first_stamp_ns
        self._ready = False
        self._target: Float64 | None = None
        self._width_m: float | None = None

    def start(self, seed: int) -> Sample | None:
        """Return None."""
        return None

    def reset(self, seed: int, object_name: str) -> Sample:
        """Reset, and drop what has arrived for the last frame."""
        frame = self._cell.reset(seed, object_name)
        self._ready = True
        self._target = self._width_m = None
        self._stamp_ns += RESET_PERIODS * self._task.period_ns
        return Sample(self._stamp_ns, frame)

    def expects(self, stamp_ns: int) -> bool:
        """Return whether this is the stamp of the last frame."""
        return self._ready and stamp_ns == self._stamp_ns

    def take_target(self, target_base_tcp: Float64) -> Sample | None:
        """Advance if no width is missing."""
        self._target = target_base_tcp
        return self._advance()

    def take_width(self, width_m: float) -> Sample | None:
        """Advance if no target is missing."""
        self._width_m = width_m
        return self._advance()

    def tick(self) -> Sample | None:
        """Return None: no wall clock moves the cell."""
        return None

    def scene_due(self) -> bool:
        """Return True."""
        return True

    def _advance(self) -> Sample | None:
        if self._target is None or (self._task.action.gripper and self._width_m is None):
            return None
        if self._width_m is not None:
            self._cell.command_gripper(self._width_m)
        target, self._target, self._width_m = self._target, None, None
        frame = self._cell.step_to(target)
        self._stamp_ns += self._task.period_ns
        return Sample(self._stamp_ns, frame)


class RealTimeCell:
    """Targets and widths are set when they arrive, and the physics follows the wall clock."""

    publishes_clock = False
    stamped_widths = False

    def __init__(
        self, cell: Cell, _first_stamp_ns: int, now_ns: Callable[[], int], clock_s: Callable[[], float] = monotonic
    ) -> None:
        """now_ns: time for stamps; clock_s: monotonic time [s] that the physics follows."""
        self._cell, self._now_ns, self._clock_s = cell, now_ns, clock_s
        self._simulated_s = self._image_s = self._scene_s = clock_s()

    def start(self, seed: int) -> Sample | None:
        """Show the scene of `seed`."""
        frame = self._cell.reset(seed)
        return Sample(self._now_ns(), frame)

    def reset(self, seed: int, object_name: str) -> Sample:
        """Reset, without catching up the time that it takes."""
        frame = self._cell.reset(seed, object_name)
        self._simulated_s = self._clock_s()
        return Sample(self._now_ns(), frame)

    def expects(self, stamp_ns: int) -> bool:
        """Return True."""
        return True

    def take_target(self, target_base_tcp: Float64) -> Sample | None:
        """Set the target, which stays until the next one."""
        self._cell.hold(target_base_tcp)
        return None

    def take_width(self, width_m: float) -> Sample | None:
        """Command the fingers."""
        self._cell.command_gripper(width_m)
        return None

    def tick(self) -> Sample | None:
        """Advance the physics to the present, by whole milliseconds."""
        now_s = self._clock_s()
        self._simulated_s = max(self._simulated_s, now_s - MAX_LAG_S)
        due_s = now_s - self._simulated_s
        if due_s < 1e-3:
            return None
        self._simulated_s += round(due_s, 3)
        with_images = now_s - self._image_s >= IMAGE_PERIOD_S
        if with_images:
            self._image_s = max(self._image_s + IMAGE_PERIOD_S, now_s - IMAGE_PERIOD_S)
        frame = self._cell.advance(due_s)
        return Sample(self._now_ns(), frame, with_images)

    def scene_due(self) -> bool:
        """Return True every `SCENE_PERIOD_S`."""
        due = self._clock_s() - self._scene_s >= SCENE_PERIOD_S
        self._scene_s = self._clock_s() if due else self._scene_s
        return due


RULES: Mapping[str, Callable[[Cell, int, Callable[[], int]], CellPace]] = {
    "real_time": RealTimeCell,
    "lock_step": LockStepCell,
}
"""Name of the pace (`rldg_ros.pace`) -> its rules, made with the cell, the first stamp [ns] and a clock [ns]."""
