"""A scripted operator that moves like a person with a SpaceMouse. Its data is always labelled "scripted".

A person differs from a controller in ways that matter to who learns from them (paper, section V): they see
the port only roughly, react late, move slowly and not quite steadily, stop to think when they touch something,
search by feel and now and then push the wrong way. Every one of these is a parameter of OperatorConfig.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_sim.human import Hand, limited
from rldg_sim.schedule import MODES, InterventionSchedule, Mode, Watch

if TYPE_CHECKING:
    from rldg_sim.operator_assembly import AssemblyOperator
    from rldg_sim.operator_pick import PickOperator

Array = NDArray[np.float64]

SMALLEST = 1e-6
"""Lower limit of what the operator divides by."""


def _setting(default: Any, description: str, low: float = 0.0, high: float | None = None) -> Any:
    """A field of OperatorConfig; the operator node declares it as a parameter with this description and range."""
    return field(default=default, metadata={"description": description, "low": low, "high": high})


@dataclass(frozen=True)
class OperatorConfig:
    """How the operator behaves. Times in s, lengths in m, angles in rad, forces in N; actions are in [-1, 1].

    Lengths of an insertion (misjudge_m, search_m, the 12 mm of near_speed) are those for connectors; other tasks
    scale them. The schedule of interventions is described in rldg_sim.schedule.
    """

    mode: Mode = field(
        default="demonstrate",
        metadata={
            "description": "demonstrate: always acts; intervene: steps in by the schedule; off: never acts.",
            "choices": MODES,
        },
    )
    reaction_s: float = _setting(0.25, "Delay between what happens and what the hand does about it [s].")
    bandwidth_hz: float = _setting(1.2, "Cut-off of the hand's motion, a first-order low-pass [Hz].", SMALLEST)
    tremor: float = _setting(0.025, "Standard deviation of the hand's noise along one axis; 0.3 of it around one.")
    gain: float = _setting(0.2, "Part of the error that the push of one control step would close.", SMALLEST, 1.0)
    speed: float = _setting(0.5, "Largest deflection of the mouse far from the port.", 0.0, 1.0)
    near_speed: float = _setting(0.22, "Largest deflection of the mouse under 12 mm from the port.", 0.0, 1.0)
    misjudge_m: float = _setting(0.0008, "Standard deviation of the seen position from afar [m]; near, a third.")
    misjudge_rad: float = _setting(0.02, "Standard deviation of the seen angle from afar [rad]; near, a third.")
    glance_s: float = _setting(1.2, "Mean time until the operator looks, and misjudges, anew [s].", SMALLEST)
    contact_n: float = _setting(5.0, "Force at which the operator stops [N].")
    pause_s: tuple[float, float] = _setting((0.2, 0.7), "How long it then pauses, uniform between two times [s].")
    search_m: float = _setting(0.0009, "Radius that the search by feel grows to [m].")
    search_s: float = _setting(1.5, "Time of one turn of the search [s].", SMALLEST)
    press: float = _setting(0.25, "Deflection along the tool while inserting; half of it while searching.", 0.0, 1.0)
    give_up_s: float = _setting(3.5, "Fruitless search until the plug is lifted and aligned again [s].")
    mistake_rate_hz: float = _setting(0.06, "How often a wrong push happens [1/s].")
    mistake_s: tuple[float, float] = _setting((0.3, 0.7), "How long it lasts, uniform between two times [s].")
    mistake_size: float = _setting(0.5, "How strong it is.", 0.0, 1.0)
    patience_s: float = _setting(InterventionSchedule.patience_s, "Step in after so long without progress [s].")
    progress_m: float = _setting(InterventionSchedule.progress_m, "What counts as progress [m].")
    chance_hz: float = _setting(
        InterventionSchedule.chance_hz, "Rate of stepping in at random in the first episode [1/s]."
    )
    chance_decay: float = _setting(
        InterventionSchedule.chance_decay, "Factor of that rate with each further episode.", 0.0, 1.0
    )
    intervention_steps: tuple[int, int] = _setting(
        InterventionSchedule.intervention_steps, "Length of an intervention, uniform between two counts of steps."
    )
    first_episode: int = _setting(0, "Number of the first episode; the rate of a resumed run goes on shrinking.")

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: expected {', '.join(MODES)}, got {self.mode!r}")
        for name in ("pause_s", "mistake_s", "intervention_steps"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name}: expected two values, 0 <= low <= high, got {low}, {high}")
        for name, value in vars(self).items():
            if isinstance(value, float) and not (np.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected a number that is not negative, got {value}")
        for name in ("bandwidth_hz", "gain", "glance_s", "search_s"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name}: must not be 0")

    @property
    def schedule(self) -> InterventionSchedule:
        """When mode `intervene` steps in."""
        return InterventionSchedule(
            self.patience_s, self.progress_m, self.chance_hz, self.chance_decay, self.intervention_steps
        )


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
LENGTH_SCALE = {"connector": 1.0, "fmb_insertion": 3.0, "assembly": 3.0}
"""What all lengths of the operator are multiplied by, for each kind of scene: the coarser the fit, the larger."""


def _offset_of(pose: ArrayLike) -> Array:
    """Pose (7,) of the plug's tip in the port's frame -> translation [m] and rotation vector [rad], (6,)."""
    values = np.asarray(pose, dtype=np.float64)
    return np.concatenate([values[:3], Rotation.from_quat(values[3:]).as_rotvec()])


class ScriptedOperator:
    """Pure operator: call reset(seed) per episode and act(...) once per observation, in order."""

    def __init__(self, config: OperatorConfig, task: Task) -> None:
        self._scale = scale = LENGTH_SCALE[task.scene.kind]
        self.config = replace(
            config,
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
        self._watch = Watch(self.config.schedule, self.config.mode, self._period_s, self._random, self._episodes)
        self._episodes += 1
        self._take_hold()

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
        held, fresh = self._watch.holds(distance_m, time_s)
        if not held:
            return np.zeros(6), False
        if fresh:
            self._take_hold()
        late = self._hand.late((offset, float(np.linalg.norm(np.asarray(wrench_tcp, dtype=np.float64)[:3]))))
        return self._hand.move(np.zeros(6) if late is None else self._intention(*late, time_s)), True

    def _take_hold(self) -> None:
        """The hand comes to the mouse."""
        self._hand: Hand[tuple[Array, float]] = Hand(self.config, self._period_s, self._random)
        self._phase = Phase.ALIGN
        self._phase_since_s = -np.inf
        self._misjudged = self._random.standard_normal(6)
        self._felt_contact = False

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
        """Where the hand wants to push, (6,) in units of action."""
        config = self.config
        touched, self._felt_contact = force_n > config.contact_n and not self._felt_contact, force_n > config.contact_n
        if touched:
            self._hand.pause(time_s)
            if self._phase is Phase.DESCEND and offset[2] < 1e-3 * self._scale:
                self._enter(Phase.SEARCH, time_s)
        distraction = self._hand.distraction(time_s)
        if distraction is not None:
            return distraction
        return self._goal_directed(self._perceived(offset), offset, time_s)

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
            # Come down early only as far as the port is centred: nobody lands beside it on purpose.
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
        limit = config.near_speed if near else config.speed
        push = config.gain * self._task.action.from_delta_tcp(wish)
        if self._phase in (Phase.DESCEND, Phase.SEARCH):
            push[2] = config.press * (0.5 if self._phase is Phase.SEARCH else 1.0)
        return limited(push, limit)


def make_operator(config: OperatorConfig, task: Task) -> ScriptedOperator | PickOperator | AssemblyOperator:
    """The operator for a task's kind of scene."""
    # Both import this module.
    from rldg_sim.operator_assembly import AssemblyOperator
    from rldg_sim.operator_pick import PickOperator

    match task.scene.kind:
        case "pick_and_place":
            return PickOperator(config, task)
        case "assembly":
            return AssemblyOperator(config, task)
        case _:
            return ScriptedOperator(config, task)
