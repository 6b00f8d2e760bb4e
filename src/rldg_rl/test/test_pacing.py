"""Rules that depend on the pace: lost Steps, known Steps, watched bags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rl_samples import random_episodes

from rldg_core.errors import UserError
from rldg_rl.pacing import RULES, LockStepRules, RealTimeRules, StepOrder


def test_gap_is_found_within_and_between_episodes() -> None:
    steps = random_episodes(3, 4)
    order = StepOrder()
    assert not order.started
    assert [order.gap(step) for step in steps[:10]] == [""] * 10
    assert order.started
    assert order.gap(steps[11]) == "topic step: step_count 9 after 7: transitions were lost"
    assert order.gap(steps[12]) == ""
    assert StepOrder().gap(replace(steps[0], step_count=70)) == "", "a learner may start later than the stack"


def test_real_time_reports_lost_steps_and_continues() -> None:
    reported: list[str] = []
    rules = RealTimeRules(reported.append)
    rules.on_lost_steps("lost")
    rules.on_known_first_step(random_episodes(1, 3)[0])
    assert reported == ["lost"]
    assert not rules.exact_resume


def test_lock_step_refuses_lost_and_known_steps(tmp_path: Path) -> None:
    rules = LockStepRules(lambda line: pytest.fail(line))
    with pytest.raises(UserError, match="lost"):
        rules.on_lost_steps("lost")
    with pytest.raises(UserError, match="episode e000 was learned from before this start"):
        rules.on_known_first_step(random_episodes(1, 3)[0])
    with pytest.raises(UserError, match="holds this run's own bags"):
        rules.check_watch_dir(tmp_path / "run/../run/bags", tmp_path / "run")
    rules.check_watch_dir(tmp_path / "other", tmp_path / "run")
    assert rules.exact_resume


def test_each_pace_reads_bags_and_publishes_weights_at_its_own_time() -> None:
    calls: list[str] = []
    for name, make in RULES.items():
        rules = make(calls.append)
        rules.on_episode_end(lambda name=name: calls.append(f"{name}: read bags"))  # type: ignore[misc]
        rules.on_watched_bag(lambda name=name: calls.append(f"{name}: weights"))  # type: ignore[misc]
    assert sorted(calls) == ["lock_step: read bags", "real_time: weights"]
