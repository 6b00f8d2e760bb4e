"""A scripted operator that inserts what is held firmly in the hand."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.operators.person import InterventionTimer, SpaceMouseHand, limited

Array = NDArray[np.float64]


class Phase(Enum):
    """What the operator is trying to do."""

    ALIGN = "align"
    DESCEND = "descend"
    SEARCH = "search"
    LIFT = "lift"


HOVER_M = 0.006
"""Height of the tip over the plate at which the operator aligns."""
NEAR_M = 0.012
"""Closer than this, along and across the tool, the operator slows down and sees better."""
CENTRED_M = 1.2e-3
"""Judged to be this near to the port's axis, the operator descends."""
SUNK_M = 0.0003
"""Depth at which the operator feels the plug give way into the lead-in."""


def _offset_of(pose: ArrayLike) -> Array:
    """Pose (7,) of the plug's tip in the port's frame -> translation [m] and rotation vector [rad], (6,)."""
    values = np.asarray(pose, dtype=np.float64)
    return np.concatenate([values[:3], Rotation.from_quat(values[3:]).as_rotvec()])


RESISTED_GAIN = 1.5
"""The hand pushes this much harder where friction resists it, in proportion to the error."""
EFFORT_GAIN = 0.02
"""Part of the remaining error by which the hand pushes harder with each control step, since friction and errors of the
arm's model keep the arm from going where it is pushed ..."""
EFFORT_KEPT = 0.97
"""... and what of that is left after a step."""
MAX_EFFORT_M = 1.5e-3
"""Largest such push, as a distance of the target."""


class InsertionOperator:
    """See Operator. length_scale: of all lengths, which are those for connectors; the coarser the fit, the larger.

    Where the task's scene resists (`scene.realism`), the operator pushes harder while the arm sticks, and presses
    the plug home once it has entered.
    """

    def __init__(self, config: OperatorConfig, task: Task, length_scale: float = 1.0) -> None:
        self._scale = scale = length_scale
        self._resisted = task.scene.realism != "ideal"
        gain = config.gain * (RESISTED_GAIN if self._resisted else 1.0)
        self.config = replace(
            config,
            gain=min(1.0, gain),
            misjudge_m=scale * config.misjudge_m,
            search_m=scale * config.search_m,
            progress_m=scale * config.progress_m,
        )
        self._hover_m, self._near_m = scale * HOVER_M, scale * NEAR_M
        self._centred_m, self._sunk_m = scale * CENTRED_M, scale * SUNK_M
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
        """Deflection of the mouse (6,) in [-1, 1], tcp axes, and whether it is touched.

        object_to_goal, object_to_tcp (7,): pose of the plug's tip in the port's frame and in the hand (ground truth);
        wrench_tcp (6,) positive when pressing. What is held firmly is neither seen in the hand nor let go.
        """
        offset = _offset_of(object_to_goal)
        distance_m = float(np.linalg.norm(offset[:2]) + max(0.0, self._hover_m - offset[2]))
        acts, starts = self._timer.update(distance_m, time_s)
        if not acts:
            return np.zeros(6), False
        if starts:
            self._begin()
        delayed = self._hand.delayed((offset, float(np.linalg.norm(np.asarray(wrench_tcp, dtype=np.float64)[:3]))))
        return self._hand.move(np.zeros(6) if delayed is None else self._intention(*delayed, time_s)), True

    def _begin(self) -> None:
        """Start to act: the reaction delay and the misjudgement of what is seen begin again."""
        self._hand: SpaceMouseHand[tuple[Array, float]] = SpaceMouseHand(self.config, self._period_s, self._random)
        self._phase = Phase.ALIGN
        self._phase_since_s = -np.inf
        self._misjudged = self._random.standard_normal(6)
        self._felt_contact = False
        self._effort = np.zeros(6)

    def _perceived(self, offset: Array) -> Array:
        """The offset as the operator judges it."""
        config = self.config
        if self._random.uniform() < self._period_s / config.glance_s:
            self._misjudged = self._random.standard_normal(6)
        scale = np.array([config.misjudge_m] * 2 + [0.0] + [config.misjudge_rad] * 3)
        if offset[2] > -self._near_m:
            scale = scale / 3
        return offset + scale * self._misjudged

    def _intention(self, offset: Array, force_n: float, time_s: float) -> Array:
        """Return the intended deflection, (6,) in units of action."""
        config = self.config
        touched, self._felt_contact = force_n > config.contact_n and not self._felt_contact, force_n > config.contact_n
        inside = self._resisted and offset[2] > self._sunk_m
        if touched and not inside:
            self._hand.pause(time_s)
            if self._phase is Phase.DESCEND and offset[2] < 1e-3 * self._scale:
                self._enter(Phase.SEARCH, time_s)
        distraction = self._hand.distraction(time_s)
        if distraction is not None:
            return distraction
        return self._goal_directed(self._perceived(offset), offset, time_s)

    def _pushed_harder(self, wish: Array) -> Array:
        """Return what the hand adds to reach a wished motion (6,) [m, rad] that the arm does not follow."""
        effort = EFFORT_KEPT * self._effort + EFFORT_GAIN * wish
        size = np.maximum(np.repeat([np.linalg.norm(effort[:3]) / MAX_EFFORT_M, 0.0], 3), 1.0)
        self._effort = effort / size
        return self._effort

    def _enter(self, phase: Phase, time_s: float) -> None:
        self._phase, self._phase_since_s = phase, time_s

    def _goal_directed(self, perceived: Array, offset: Array, time_s: float) -> Array:
        config = self.config
        lateral_m = float(np.linalg.norm(perceived[:2]))
        since_s = time_s - self._phase_since_s
        centred = lateral_m < self._centred_m and abs(perceived[5]) < 0.03 and offset[2] > -2 * self._hover_m
        sunk = offset[2] > self._sunk_m
        if (self._phase is Phase.ALIGN and centred) or (self._phase is Phase.SEARCH and sunk):
            self._enter(Phase.DESCEND, time_s)
        elif self._phase in (Phase.DESCEND, Phase.SEARCH) and since_s > config.give_up_s and not sunk:
            self._enter(Phase.LIFT, time_s)
        elif self._phase is Phase.LIFT and offset[2] < -self._hover_m / 2:
            self._enter(Phase.ALIGN, time_s)

        wish = -perceived.copy()
        if self._phase is Phase.ALIGN:
            # Descend only as far as the port is centred.
            wish[2] = -self._hover_m - max(0.0, lateral_m - 5e-3 * self._scale) - offset[2]
        elif self._phase is Phase.LIFT:
            wish[2] = -self._hover_m - offset[2]
        else:
            wish[2] = 0.0  # pressing is set below
            if self._phase is Phase.SEARCH:
                angle = 2 * np.pi * since_s / config.search_s
                radius = config.search_m * min(1.0, since_s / config.search_s) / config.gain
                wish[:2] += radius * np.array([np.cos(angle), np.sin(angle)])
        # From the port's axes to the tool's.
        wish[:3] = Rotation.from_rotvec(offset[3:]).inv().apply(wish[:3])
        near = offset[2] > -self._near_m and lateral_m < self._near_m
        if self._resisted and near:
            wish = wish + self._pushed_harder(wish) / config.gain
        limit = config.near_speed if near else config.speed
        push = config.gain * self._task.action.from_delta_tcp(wish)
        if self._phase in (Phase.DESCEND, Phase.SEARCH):
            push[2] = config.press * (0.5 if self._phase is Phase.SEARCH else 1.0)
        if self._resisted and sunk and self._phase is Phase.DESCEND:
            push[2], limit = 1.0, 1.0
        return limited(push, limit)
