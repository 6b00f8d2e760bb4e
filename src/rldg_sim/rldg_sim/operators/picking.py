"""A scripted operator that picks and places like a person with a SpaceMouse. Its data is always labelled "scripted".

It goes above the object, comes down, closes the hand, lifts, carries the object to the bowl and lets go; when the
object is not in the hand afterwards, it starts over. The hand's imperfections are those of rldg_sim.operators.person,
and the same OperatorConfig sets them. A button of the mouse is pressed for a moment, not held: 7th component +-1
for PRESS_S, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.operators.person import InterventionTimer, SpaceMouseHand, limited

Array = NDArray[np.float64]

HOVER_M = 0.06
"""Height of the tcp over the object's middle at which the operator aligns."""
ALIGNED_M = 0.008
"""Largest lateral error at which the operator descends ..."""
ALIGNED_RAD = 0.2
"""... and largest error about the tool axis."""
CLOSE_S = 0.6
"""Time that the operator gives the hand to close, and to open."""
PRESS_S = 0.3
LOST_M = 0.045
"""An object further than this from the tcp is not in the hand."""
MISJUDGE = 14.0
"""A place on the table is judged this many times worse than a plug at its port (OperatorConfig.misjudge_m)."""
TRAVEL = 1.7
"""People move so much faster through free space than on their way into a port (OperatorConfig.speed, gain)."""
EMPTY_WIDTH_M, OPEN_WIDTH_M = 0.012, 0.07
"""The closed hand is empty under the one width, the hand is open over the other."""


@dataclass(frozen=True)
class CarryParameters:
    """What differs between objects [m].

    grasp: the point to grasp lies this far from the object's reference, against its z axis; carry_height: of the
    reference over the goal while it is carried; arrived: distance from the goal's axis that is near enough;
    lets_go: opens the gripper there; otherwise the caller continues.
    """

    grasp_m: float
    carry_height_m: float
    arrived_m: float
    lets_go: bool


INTO_THE_BOWL = CarryParameters(grasp_m=0.0, carry_height_m=0.045, arrived_m=0.045, lets_go=True)


class Phase(Enum):
    """What the operator is trying to do."""

    APPROACH = "approach"
    DESCEND = "descend"
    CLOSE = "close"
    LIFT = "lift"
    CARRY = "carry"
    RELEASE = "release"


class Perception(NamedTuple):
    """What there is to see of the object and its goal."""

    to_object: Array  # (3,) [m], tcp axes: from the tcp to the point to grasp
    turn_rad: float  # by which the tool must turn about its z axis
    to_goal: Array  # (3,) [m], tcp axes: from the object to the goal
    level: Array  # (3,) rotation vector that levels the tool, tcp axes
    height_m: float  # of the object over the goal
    width_m: float
    force_n: float


def perceive(
    wrench_tcp: ArrayLike,
    object_to_goal: ArrayLike,
    object_to_tcp: ArrayLike,
    gripper_width_m: float,
    grasp_m: float = 0.0,
) -> Perception:
    """Poses (7,) of the object in the goal's frame and in the tcp's -> what the operator works with."""
    in_goal, in_tcp = np.asarray(object_to_goal, dtype=np.float64), np.asarray(object_to_tcp, dtype=np.float64)
    turn_tcp_goal = Rotation.from_quat(in_tcp[3:]) * Rotation.from_quat(in_goal[3:]).inv()
    axis, _, along = Rotation.from_quat(in_tcp[3:]).as_matrix().T
    # The object is symmetric about this axis: take the smaller of the two rotations.
    turn = float(np.arctan2(axis[1], axis[0]))
    turn = (turn + np.pi / 2) % np.pi - np.pi / 2
    down = turn_tcp_goal.apply([0.0, 0.0, 1.0])
    return Perception(
        to_object=in_tcp[:3] - grasp_m * along,
        turn_rad=turn,
        to_goal=turn_tcp_goal.apply(-in_goal[:3]),
        level=np.cross([0.0, 0.0, 1.0], down),
        height_m=float(-in_goal[2]),
        width_m=gripper_width_m,
        force_n=float(np.linalg.norm(np.asarray(wrench_tcp, dtype=np.float64)[:3])),
    )


class PickOperator:
    """See Operator."""

    def __init__(self, config: OperatorConfig, task: Task, carrying: CarryParameters) -> None:
        self.config = config
        self._carrying = carrying
        self._task = task
        self._period_s = task.period_s
        self._episodes = 0
        self.reset(0)
        self._episodes = config.first_episode

    def reset(self, seed: int) -> None:
        """Start an episode; everything the operator does in it derives from `seed` and the episode's number."""
        self._random = np.random.default_rng(derive_seed(seed, "operator"))
        self._timer = InterventionTimer(
            self.config.schedule, self.config.mode, self._period_s, self._random, self._episodes
        )
        self._episodes += 1
        self._begin()

    def act(
        self,
        pose_base_tcp: ArrayLike,
        wrench_tcp: ArrayLike,
        object_to_goal: ArrayLike,
        object_to_tcp: ArrayLike,
        gripper_width_m: float,
        time_s: float,
    ) -> tuple[Array, bool]:
        """Deflection of the mouse and button (7,) in [-1, 1], tcp axes, and whether the mouse is touched.

        object_to_goal, object_to_tcp (7,): ground truth, see SensorFrame; wrench_tcp (6,) positive when pressing.
        """
        seen = perceive(wrench_tcp, object_to_goal, object_to_tcp, gripper_width_m, self._carrying.grasp_m)
        acts, starts = self._timer.update(self._remaining_distance_m(seen), time_s)
        if not acts:
            return np.zeros(7), False
        if starts:
            self._begin()
        delayed = self._hand.delayed(seen)
        intention = np.zeros(6) if delayed is None else self._intention(delayed, time_s)
        button = self._button if time_s < self._press_until_s else 0.0
        return np.append(self._hand.move(intention), button), True

    @staticmethod
    def _remaining_distance_m(seen: Perception) -> float:
        """Remaining way of the hand to the object and of the object to the bowl [m]; shrinks in all phases."""
        return float(np.linalg.norm(seen.to_object) + np.linalg.norm(seen.to_goal[:2]) + seen.width_m)

    def _begin(self) -> None:
        """Start to act: the reaction delay and the misjudgement of what is seen begin again."""
        self._hand: SpaceMouseHand[Perception] = SpaceMouseHand(self.config, self._period_s, self._random)
        self._misjudged = self._random.standard_normal(3)
        self._phase = Phase.APPROACH
        self._since_s = self._press_until_s = -np.inf
        self._button = 0.0
        self._fresh = True
        self._felt_contact = False

    def _enter(self, phase: Phase, time_s: float) -> None:
        self._phase, self._since_s = phase, time_s

    def _press(self, button: float, time_s: float) -> None:
        self._button, self._press_until_s = button, time_s + PRESS_S

    def _intention(self, seen: Perception, time_s: float) -> Array:
        """Return the intended deflection, (6,) in units of action."""
        touched = seen.force_n > self.config.contact_n and not self._felt_contact
        self._felt_contact = seen.force_n > self.config.contact_n
        if touched and self._phase in (Phase.APPROACH, Phase.DESCEND):
            self._hand.pause(time_s)
        distraction = self._hand.distraction(time_s)
        if distraction is not None:
            return distraction
        if self._fresh:
            self._choose_first_phase(seen, time_s)
        if self._random.uniform() < self._period_s / self.config.glance_s:
            self._misjudged = self._random.standard_normal(3)
        before = self._phase
        self._choose_phase(seen, time_s)
        if self._phase is not before:
            self._hand.pause(time_s)
        return self._push(seen)

    def _choose_first_phase(self, seen: Perception, time_s: float) -> None:
        """Enter the phase that the state of the task asks for when the operator starts to act."""
        self._fresh = False
        held = self.holds(seen)
        self._enter(Phase.LIFT if held else Phase.APPROACH, time_s)
        if not held and seen.width_m < OPEN_WIDTH_M:
            self._press(1.0, time_s)

    def holds(self, seen: Perception) -> bool:
        """Return whether the object is in the closed hand."""
        return self._in_hand(seen) and seen.width_m < OPEN_WIDTH_M

    def carries(self, seen: Perception) -> bool:
        """Return whether it holds the object near enough to its goal."""
        return self.holds(seen) and float(np.linalg.norm(seen.to_goal[:2])) < self._carrying.arrived_m

    @staticmethod
    def _in_hand(seen: Perception) -> bool:
        return bool(np.linalg.norm(seen.to_object) < LOST_M and seen.width_m > EMPTY_WIDTH_M)

    def _choose_phase(self, seen: Perception, time_s: float) -> None:
        across_m = float(np.linalg.norm(self._to_object(seen)[:2]))
        waited = time_s - self._since_s > CLOSE_S
        if self._phase is Phase.APPROACH:
            low = seen.to_object[2] < 1.5 * HOVER_M
            if across_m < ALIGNED_M and abs(seen.turn_rad) < ALIGNED_RAD and low and seen.width_m > OPEN_WIDTH_M:
                self._enter(Phase.DESCEND, time_s)
        elif self._phase is Phase.DESCEND:
            if seen.to_object[2] < 0.004:
                self._enter(Phase.CLOSE, time_s)
                self._press(-1.0, time_s)
            elif across_m > 4 * ALIGNED_M:
                self._enter(Phase.APPROACH, time_s)
        elif self._phase is Phase.CLOSE:
            if waited:
                self._enter(Phase.LIFT, time_s)
        elif self._phase in (Phase.LIFT, Phase.CARRY):
            if not self._in_hand(seen):
                self._enter(Phase.APPROACH, time_s)
                self._press(1.0, time_s)
            elif self._phase is Phase.LIFT and seen.height_m > self._carrying.carry_height_m - 0.01:
                self._enter(Phase.CARRY, time_s)
            elif self._phase is Phase.CARRY and self._carrying.lets_go and self._arrived(seen):
                self._enter(Phase.RELEASE, time_s)
                self._press(1.0, time_s)
        elif waited and np.linalg.norm(seen.to_goal[:2]) > 2 * self._carrying.arrived_m:
            self._enter(Phase.APPROACH, time_s)

    def _arrived(self, seen: Perception) -> bool:
        return float(np.linalg.norm(self._to_goal(seen)[:2])) < self._carrying.arrived_m

    def _to_object(self, seen: Perception) -> Array:
        """Way from the tcp to the object as the operator judges it; near it, three times better."""
        scale = MISJUDGE * self.config.misjudge_m / (3.0 if seen.to_object[2] < HOVER_M else 1.0)
        return seen.to_object + scale * self._misjudged * [1.0, 1.0, 0.0]

    def _to_goal(self, seen: Perception) -> Array:
        return seen.to_goal + MISJUDGE * self.config.misjudge_m * self._misjudged * [1.0, 1.0, 0.0]

    def _push(self, seen: Perception) -> Array:
        config = self.config
        wish = np.zeros(6)
        wish[3:] = seen.level
        limit = TRAVEL * config.speed
        if self._phase in (Phase.APPROACH, Phase.DESCEND):
            wish[:3] = self._to_object(seen)
            wish[5] += seen.turn_rad
            if self._phase is Phase.APPROACH:
                # Stay high until the object is below.
                wish[2] -= HOVER_M + 0.5 * max(0.0, float(np.linalg.norm(wish[:2])) - 0.03)
            elif seen.to_object[2] < HOVER_M:
                limit = TRAVEL * config.near_speed
                wish[2] += 0.006  # people aim a little below the middle
        elif self._phase in (Phase.LIFT, Phase.CARRY):
            wish[2] = seen.height_m - self._carrying.carry_height_m
            if self._phase is Phase.CARRY:
                wish[:2] = self._to_goal(seen)[:2]
        return limited(TRAVEL * config.gain * self._task.action.from_delta_tcp(wish), limit)
