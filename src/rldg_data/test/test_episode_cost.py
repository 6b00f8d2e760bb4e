"""Cost of an episode from its Steps: force, time, path, jerk, and the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from rldg_core.types import Step
from rldg_data.episode_cost import EpisodeCost, episode_cost, mean_costs
from rldg_data.testing.steps import episodes, make_episode

PERIOD_S = 0.1
BEST = EpisodeCost(True, 5.0, 3.0, 0.0, 1.0, 0.05, 0.05, 0.0)


def made(positions: np.ndarray, forces_n: np.ndarray, success: bool = True) -> list[Step]:
    """Return an episode with these positions (N, 3) [m] and forces (N,) [N] along z, one each PERIOD_S."""
    steps = make_episode(transitions=len(positions) - 1, success=success)
    changed = []
    for k, step in enumerate(steps):
        pose = np.concatenate([positions[k], step.observation.pose_base_tcp[3:]])
        observation = replace(
            step.observation,
            stamp_ns=round(k * PERIOD_S * 1e9),
            pose_base_tcp=pose,
            wrench_tcp=np.array([0.0, 0.0, forces_n[k], 0.0, 0.0, 0.0]),
        )
        changed.append(replace(step, observation=observation))
    return changed


def line(count: int, speed_m_s: float = 0.05) -> np.ndarray:
    return np.arange(count)[:, None] * np.array([0.0, 0.0, -speed_m_s * PERIOD_S]) + [0.5, 0.0, 0.2]


def test_straight_motion_without_force_costs_only_time() -> None:
    cost = episode_cost(made(line(21), np.zeros(21)))
    assert cost.duration_s == pytest.approx(2.0)
    assert cost.path_m == pytest.approx(cost.direct_m) == pytest.approx(0.1)
    assert (cost.peak_force_n, cost.over_limit_s, cost.impulse_n_s) == (0.0, 0.0, 0.0)
    assert cost.jerk_m_s3 == pytest.approx(0.0, abs=1e-9)
    assert cost.score == pytest.approx(99.0)


def test_force_over_the_limit_for_a_second_costs_twelve_points() -> None:
    forces = np.zeros(40)
    forces[10:20] = 25.0
    short = episode_cost(made(line(40), forces))
    forces[10:22] = 25.0
    long = episode_cost(made(line(40), forces))
    assert (short.over_limit_s, long.over_limit_s) == (pytest.approx(1.0), pytest.approx(1.2))
    assert short.score - long.score == pytest.approx(12.0)
    assert long.impulse_n_s == pytest.approx(12 * 25.0 * PERIOD_S)
    assert long.peak_force_n == 25.0


def test_jerk_is_that_of_the_motion() -> None:
    """z = a sin(w t) has the mean jerk a w^3 2 / pi."""
    frequency, amplitude_m = 1.0, 0.02
    times_s = np.arange(200) * PERIOD_S
    positions = np.tile([0.5, 0.0, 0.2], (200, 1))
    positions[:, 2] += amplitude_m * np.sin(frequency * times_s)
    cost = episode_cost(made(positions, np.zeros(200)))
    moving = np.abs(np.cos(frequency * times_s)) * amplitude_m * frequency > 0.01
    expected = (np.abs(np.cos(frequency * times_s[moving])) * amplitude_m * frequency**3).mean()
    assert cost.jerk_m_s3 == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("change", "points"),
    [
        ({"duration_s": 60.0}, 12.0),
        ({"duration_s": 32.5}, 6.0),
        ({"jerk_m_s3": 25.0}, 3.0),
        ({"path_m": 1.05}, 6.0),
        ({"over_limit_s": 1.1}, 12.0),
    ],
)
def test_score_loses_the_points_of_the_rule(change: dict[str, float], points: float) -> None:
    assert BEST.score == 99.0
    assert replace(BEST, **change).score == pytest.approx(99.0 - points)  # type: ignore[arg-type]


def test_failed_episode_gets_no_points() -> None:
    assert replace(BEST, success=False).score == 0.0
    assert replace(BEST, success=False, over_limit_s=2.0).score == -12.0


@settings(max_examples=40, deadline=None)
@given(episodes(min_transitions=1))
def test_any_episode_has_a_cost_within_bounds(steps: list[Step]) -> None:
    cost = episode_cost(steps)
    assert -12.0 <= cost.score <= 99.0
    assert cost.path_m >= cost.direct_m - 1e-9
    assert 0.0 <= cost.over_limit_s <= cost.duration_s + 1e-9


def test_means_are_over_episodes_and_empty_without_any() -> None:
    means = mean_costs([BEST, replace(BEST, success=False, peak_force_n=9.0)])
    assert means["peak_force_n"] == 6.0
    assert means["max_force_n"] == 9.0
    assert means["score"] == pytest.approx(49.5)
    assert mean_costs([]) == {}


def test_single_step_has_no_cost() -> None:
    with pytest.raises(ValueError, match="1 Steps, expected at least 2"):
        episode_cost(make_episode(transitions=0)[:1])
