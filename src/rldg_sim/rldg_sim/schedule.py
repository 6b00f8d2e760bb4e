"""When a person steps in while a policy learns, and for how long: less and less over the training run.

A person watches and takes the mouse for two reasons: nothing gets better for a while (`patience_s`), or just so, to
show something (`chance_hz`), which they do ever more rarely: the rate shrinks by `chance_decay` with each episode.
They let go after `intervention_steps`. With the defaults and no want of progress:

    episode              0     20     50    100
    stepping in, 1/min   6.0   3.3    1.3   0.3

As a policy succeeds, want of progress goes, and with it the other reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

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
        """Rate [1/s] of stepping in without a reason in the training episode of this number."""
        return float(self.chance_hz * self.chance_decay**episode)


class Watch:
    """The schedule at work in one episode; draws from `random` in a fixed order, so that runs repeat."""

    def __init__(
        self, schedule: InterventionSchedule, mode: Mode, period_s: float, random: np.random.Generator, episode: int
    ) -> None:
        """mode: `demonstrate` always holds the mouse, `off` never does."""
        self._schedule, self._mode, self._random, self._period_s = schedule, mode, random, period_s
        self._chance_hz = schedule.chance_in(episode)
        self._best_m = np.inf
        self._best_s: float | None = None
        self._left = 0

    def holds(self, distance_m: float, time_s: float) -> tuple[bool, bool]:
        """Whether the mouse is held now, and whether the hand came to it just now; distance_m: what is left to do."""
        schedule = self._schedule
        if self._mode != "intervene":
            return self._mode == "demonstrate", False
        if self._best_s is None or distance_m < self._best_m - schedule.progress_m:
            self._best_m, self._best_s = distance_m, time_s
        stuck = time_s - self._best_s > schedule.patience_s
        lucky = self._random.uniform() < self._chance_hz * self._period_s
        fresh = self._left == 0 and (stuck or lucky)
        if fresh:
            self._left = int(self._random.integers(*schedule.intervention_steps, endpoint=True))
            self._best_m, self._best_s = distance_m, time_s
        held = self._left > 0
        self._left = max(0, self._left - 1)
        return held, fresh
