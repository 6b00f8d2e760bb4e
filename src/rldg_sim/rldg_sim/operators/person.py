"""What all scripted operators share: when they act, and how a hand on the SpaceMouse moves."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rldg_sim.operators.config import InterventionSchedule, Mode, OperatorConfig

Array = NDArray[np.float64]
Perception = TypeVar("Perception")

_TREMOR_SHAPE = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3])
"""The cap of a SpaceMouse turns less readily than it slides."""


class SpaceMouseHand(Generic[Perception]):
    """A hand on the SpaceMouse: reaction delay, limited bandwidth, tremor, pauses and wrong pushes."""

    def __init__(self, config: OperatorConfig, period_s: float, random: np.random.Generator) -> None:
        self._config, self._period_s, self._random = config, period_s, random
        self._delay_steps = round(config.reaction_s / period_s)
        self._seen: deque[Perception] = deque()
        self._motion = np.zeros(6)
        self._tremor = np.zeros(6)
        self._pause_until_s = self._mistake_until_s = -np.inf
        self._mistake = np.zeros(6)

    def delayed(self, seen: Perception) -> Perception | None:
        """Return what was seen one reaction time ago, None before that."""
        self._seen.append(seen)
        return self._seen.popleft() if len(self._seen) > self._delay_steps else None

    def pause(self, time_s: float) -> None:
        """Start a pause of random length."""
        self._pause_until_s = time_s + self._random.uniform(*self._config.pause_s)

    def distraction(self, time_s: float) -> Array | None:
        """Return what replaces the intention: zeros in a pause, a wrong push now and then, else None."""
        config = self._config
        if time_s < self._pause_until_s:
            return np.zeros(6)
        if time_s >= self._mistake_until_s and self._random.uniform() < config.mistake_rate_hz * self._period_s:
            self._mistake_until_s = time_s + self._random.uniform(*config.mistake_s)
            self._mistake = self._random.uniform(-config.mistake_size, config.mistake_size, 6)
        return self._mistake if time_s < self._mistake_until_s else None

    def move(self, intention: Array) -> Array:
        """Return the deflection (6,) that follows the intention (6,) with limited bandwidth and tremor."""
        config = self._config
        follow = 1.0 - np.exp(-2 * np.pi * config.bandwidth_hz * self._period_s)
        self._motion = self._motion + follow * (intention - self._motion)
        # Tremor at 10 Hz is close to white; a little correlation stands for drift.
        noise = config.tremor * _TREMOR_SHAPE * self._random.standard_normal(6)
        self._tremor = 0.5 * self._tremor + np.sqrt(0.75) * noise
        return np.clip(self._motion + self._tremor, -1.0, 1.0)


def limited(push: Array, limit: float) -> Array:
    """Scale a push (6,) so that its translation and its rotation are each at most `limit` long."""
    size = np.array([np.linalg.norm(push[:3])] * 3 + [np.linalg.norm(push[3:])] * 3)
    return np.asarray(push * np.minimum(1.0, limit / np.maximum(size, 1e-9)), dtype=np.float64)


class InterventionTimer:
    """Applies the schedule of interventions to one episode; draws in a fixed order, so that runs repeat."""

    def __init__(
        self, schedule: InterventionSchedule, mode: Mode, period_s: float, random: np.random.Generator, episode: int
    ) -> None:
        """mode: `demonstrate` always acts, `off` never does."""
        self._schedule, self._mode, self._random, self._period_s = schedule, mode, random, period_s
        self._chance_hz = schedule.chance_in(episode)
        self._best_m = np.inf
        self._best_s: float | None = None
        self._left = 0

    def update(self, distance_m: float, time_s: float) -> tuple[bool, bool]:
        """Return whether the operator acts now, and whether it starts to at this step.

        distance_m: a measure of what is left to do, which shrinks as the task progresses.
        """
        schedule = self._schedule
        if self._mode != "intervene":
            return self._mode == "demonstrate", False
        if self._best_s is None or distance_m < self._best_m - schedule.progress_m:
            self._best_m, self._best_s = distance_m, time_s
        stuck = time_s - self._best_s > schedule.patience_s
        by_chance = self._random.uniform() < self._chance_hz * self._period_s
        starts = self._left == 0 and (stuck or by_chance)
        if starts:
            self._left = int(self._random.integers(*schedule.intervention_steps, endpoint=True))
            self._best_m, self._best_s = distance_m, time_s
        acts = self._left > 0
        self._left = max(0, self._left - 1)
        return acts, starts
