"""How scripted operators behave, and what one must offer.

A scripted operator moves like a person with a SpaceMouse; its data is always labelled "scripted". A person differs
from a controller in ways that matter to who learns from them (paper, section V): they see the port only roughly,
react late, move slowly and not quite steadily, stop to think when they touch something, search by feel and now and
then push the wrong way. Every one of these is a parameter of OperatorConfig.

In mode `intervene` the operator steps in while a policy learns, less and less over the training run.
A person intervenes for two reasons: there is no progress for `patience_s`, or at random, to demonstrate something, at
the rate `chance_hz`, which shrinks by `chance_decay` with each episode. An intervention lasts `intervention_steps`.
With the defaults, and where progress is made:

    episode              0     20     50    100
    at random, 1/min     6.0   3.3    1.3   0.3

As a policy succeeds, it makes progress, and interventions for the first reason end, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

Mode = Literal["demonstrate", "intervene", "off"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class InterventionSchedule:
    """patience_s: intervene when what is left to do got no `progress_m` less for so long [s]; chance_hz: rate of
    stepping in without a reason in the first episode [1/s], times chance_decay with each further one;
    intervention_steps: range of the length of one intervention [control steps]."""

    patience_s: float = 3.0
    progress_m: float = 0.002
    chance_hz: float = 0.1
    chance_decay: float = 0.97
    intervention_steps: tuple[int, int] = (5, 20)

    def chance_in(self, episode: int) -> float:
        """Return the rate [1/s] of interventions at random in the training episode of this number."""
        return float(self.chance_hz * self.chance_decay**episode)


SMALLEST = 1e-6
"""Lower limit of values that are divisors."""


def _setting(default: Any, description: str, low: float = 0.0, high: float | None = None) -> Any:
    """A field of OperatorConfig; the operator node declares it as a parameter with this description and range."""
    return field(default=default, metadata={"description": description, "low": low, "high": high})


@dataclass(frozen=True)
class OperatorConfig:
    """How the operator behaves. Times in s, lengths in m, angles in rad, forces in N; actions are in [-1, 1].

    Lengths of an insertion (misjudge_m, search_m, the 12 mm of near_speed) are those for connectors; other tasks
    scale them. The schedule of interventions is InterventionSchedule.
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
    glance_s: float = _setting(1.2, "Mean time until the operator looks again, and misjudges [s].", SMALLEST)
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
    first_episode: int = _setting(0, "Number of the first episode; the rate of a resumed run continues to shrink.")

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
        """The schedule of mode `intervene`."""
        return InterventionSchedule(
            self.patience_s, self.progress_m, self.chance_hz, self.chance_decay, self.intervention_steps
        )


class Operator(Protocol):
    """A scripted operator: call reset(seed) per episode and act(...) once per observation, in order."""

    def reset(self, seed: int) -> None:
        """Start an episode; everything the operator does in it derives from `seed` and the episode's number."""

    def act(
        self,
        pose_base_tcp: ArrayLike,
        wrench_tcp: ArrayLike,
        object_to_goal: ArrayLike,
        object_to_tcp: ArrayLike,
        gripper_width_m: float,
        time_s: float,
    ) -> tuple[Array, bool]:
        """Return the deflection of the mouse (6,), or (7,) with the button, in [-1, 1], tcp axes, and whether it acts.

        object_to_goal, object_to_tcp (7,): ground truth, see SensorFrame; wrench_tcp (6,) positive when pressing.
        """
