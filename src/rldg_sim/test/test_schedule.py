"""When the scripted operator intervenes: without progress, and at random with decreasing frequency."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rldg_sim.operators.config import InterventionSchedule
from rldg_sim.operators.person import InterventionTimer

PERIOD_S = 0.125


def run(
    schedule: InterventionSchedule, episode: int, distances_m: list[float], seed: int = 0
) -> list[tuple[bool, bool]]:
    watch = InterventionTimer(schedule, "intervene", PERIOD_S, np.random.default_rng(seed), episode)
    return [watch.update(d, k * PERIOD_S) for k, d in enumerate(distances_m)]


def test_random_interventions_have_the_documented_rates() -> None:
    rates = [60 * InterventionSchedule().chance_in(episode) for episode in (0, 20, 50, 100)]
    assert rates == pytest.approx([6.0, 3.3, 1.3, 0.3], abs=0.05)


def test_interventions_start_without_progress_only() -> None:
    schedule = InterventionSchedule(patience_s=2.0, chance_hz=0.0, intervention_steps=(4, 4))
    approaching = [0.5 - 0.003 * k for k in range(100)]
    assert not any(held for held, _ in run(schedule, 0, approaching))
    stuck = run(schedule, 0, [0.5] * 60)
    assert [k for k, (_, fresh) in enumerate(stuck) if fresh] == [17, 34, 51]
    assert [len(list(g)) for held, g in itertools.groupby(stuck, lambda s: s[0]) if held] == [4, 4, 4]


def test_interventions_decrease_over_training() -> None:
    schedule = InterventionSchedule(patience_s=1e9)
    counts = [
        sum(fresh for seed in range(40) for _, fresh in run(schedule, episode, [1.0] * 100, seed))
        for episode in (0, 30, 100)
    ]
    assert counts[0] > 1.5 * counts[1] > 3 * counts[2] > 0


def test_other_modes_need_no_schedule() -> None:
    for mode, held in (("demonstrate", True), ("off", False)):
        watch = InterventionTimer(InterventionSchedule(), mode, PERIOD_S, np.random.default_rng(0), 0)
        assert [watch.update(1.0, k * 10.0) for k in range(3)] == [(held, False)] * 3
