"""What the learner does differently in real time and in lock-step simulation.

In lock-step a run must repeat bit for bit: every Step arrives, and a watched bag is learned from at a step of the run
and not at a time. In real time messages may be lost, and what is new is used as soon as it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from rldg_core.errors import UserError
from rldg_core.types import Step


class Rules(Protocol):
    """The decisions that depend on the pace."""

    @property
    def exact_resume(self) -> bool:
        """Whether a checkpoint is used only when there is a bag for every episode that it has learned from."""

    def on_known_first_step(self, step: Step) -> None:
        """Handle a first Step that the learner had learned from before it was started."""

    def on_lost_steps(self, reason: str) -> None:
        """Handle a gap in `step_count`."""

    def check_watch_dir(self, folder: Path, run_dir: Path) -> None:
        """Raise UserError when this folder cannot be watched."""

    def on_episode_end(self, read_new_bags: Callable[[], None]) -> None:
        """Read new bags, if they are read between episodes only."""

    def on_watched_bag(self, publish_weights: Callable[[], None]) -> None:
        """Publish weights after a watched bag, if they may become valid between two steps."""


class RealTimeRules:
    """Lost Steps are reported, watched bags are learned from when they appear."""

    exact_resume = False

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report

    def on_known_first_step(self, step: Step) -> None:
        """Nothing: the learner counts the duplicate and drops it."""

    def on_lost_steps(self, reason: str) -> None:
        """Report the gap and continue: replay does not link across it."""
        self._report(reason)

    def check_watch_dir(self, folder: Path, run_dir: Path) -> None:
        """Every folder can be watched, this run's own bags included: Steps that are known are dropped."""

    def on_episode_end(self, read_new_bags: Callable[[], None]) -> None:
        """Nothing: the node reads new bags periodically."""

    def on_watched_bag(self, publish_weights: Callable[[], None]) -> None:
        """Publish weights at once."""
        publish_weights()


class LockStepRules:
    """Lost Steps are errors, watched bags are learned from between episodes."""

    exact_resume = True

    def __init__(self, report: Callable[[str], None]) -> None:
        """Nothing is reported: what may be lost in real time is an error here."""

    def on_known_first_step(self, step: Step) -> None:
        """Raise UserError: the simulation repeats an episode that the learner already has."""
        raise UserError(
            f"topic step: episode {step.episode_id} was learned from before this start: "
            "resume the run with its bags (`rldg train`), or use a new run_dir"
        )

    def on_lost_steps(self, reason: str) -> None:
        """Raise UserError."""
        raise UserError(reason)

    def check_watch_dir(self, folder: Path, run_dir: Path) -> None:
        """Raise UserError on this run's own bags: which Step comes first, by topic or by bag, would depend on time."""
        if folder.resolve() == (run_dir / "bags").resolve():
            raise UserError(f"parameter watch_dir: {folder} holds this run's own bags, which `step` brings")

    def on_episode_end(self, read_new_bags: Callable[[], None]) -> None:
        """Read new bags."""
        read_new_bags()

    def on_watched_bag(self, publish_weights: Callable[[], None]) -> None:
        """Nothing: weights become valid at multiples of `period_steps` only."""


RULES: Mapping[str, Callable[[Callable[[str], None]], Rules]] = {
    "real_time": RealTimeRules,
    "lock_step": LockStepRules,
}
"""Name of the pace (`rldg_ros.pace`) -> its rules, made with a function that reports one line."""


class StepOrder:
    """Finds gaps in the `step_count` of the Steps that arrive."""

    def __init__(self) -> None:
        self._expected: int | None = None

    @property
    def started(self) -> bool:
        """Whether a Step has arrived."""
        return self._expected is not None

    def gap(self, step: Step) -> str:
        """Take note of a new Step. Returns one line when transitions before it were lost, else ""."""
        expected, self._expected = self._expected, step.step_count + (not step.is_last)
        if expected is None or step.step_count == expected:
            return ""
        return f"topic step: step_count {step.step_count} after {expected - 1}: transitions were lost"
