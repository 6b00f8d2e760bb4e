"""Plausibility of an episode's arrays: real values pass, implausible ones are a finding of one line; nothing raises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rldg_core.errors import UserError
from rldg_data import plausibility
from rldg_data.episodes.gripper import switching
from rldg_data.motion import motion
from rldg_data.plausibility import Delay, Limits, Problem
from rldg_data.testing.lint import good_episode

LIMITS = Limits()
rates = st.floats(1, 100)


def checks(problems: plausibility.Problems) -> list[str]:
    return [problem.check for problem in problems]


@settings(max_examples=50, deadline=None)
@given(rates, st.integers(2, 200), st.floats(-0.24, 0.24), st.integers(0, 10**6))
def test_jitter_of_a_quarter_period_is_accepted(rate_hz: float, count: int, jitter: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps = (np.arange(count) + rng.uniform(-abs(jitter), abs(jitter), count)) / rate_hz
    assert checks(plausibility.rate(stamps, rate_hz, LIMITS)) == []
    assert checks(plausibility.gaps(stamps, LIMITS)) == []


@settings(max_examples=50, deadline=None)
@given(rates, st.one_of(st.floats(0.1, 0.85), st.floats(1.2, 10)), st.integers(15, 100))
def test_another_rate_is_an_error(rate_hz: float, factor: float, count: int) -> None:
    stamps = np.arange(count) / (rate_hz * factor)
    assert checks(plausibility.rate(stamps, rate_hz, LIMITS)) == ["rate"]
    assert checks(plausibility.rate(stamps, 0.0, LIMITS)) == []  # no declared rate


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 60), st.integers(0, 8), st.floats(1.0, 20.0))
def test_pauses_are_found(count: int, before: int, periods: float) -> None:
    stamps = np.arange(count) * 0.1
    stamps[before + 1 :] += (periods - 1) * 0.1
    found = list(plausibility.gaps(stamps, LIMITS))
    expected = [] if periods <= 2.4 else ["error"] if periods > 5.1 else ["warning"]
    if min(abs(periods - 2.5), abs(periods - 5)) > 0.1:
        assert [problem.severity for problem in found] == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 19), st.floats(0.035, 5.0), st.integers(0, 1000))
def test_jump_is_found_at_its_step(step: int, by_m: float, seed: int) -> None:
    episode = good_episode(seed)
    poses = episode.state[:, :7].astype(np.float64) * [0.1, 0.1, 0.1, 1, 1, 1, 1]
    assert checks(plausibility.jumps(episode.timestamp_s, poses, LIMITS)) == []
    direction = poses[step, :3] - poses[step - 1, :3]
    poses[step:, :3] += direction / np.linalg.norm(direction) * by_m
    (found,) = plausibility.jumps(episode.timestamp_s, poses, LIMITS)
    assert found.check == "jump" and f"before step {step}," in found.message


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.tuples(st.floats(-9, 9), st.floats(0, 2)), max_size=5))
def test_stamp_offsets_are_found(given: dict[str, tuple[float, float]]) -> None:
    delays = {topic: Delay(low, low + spread) for topic, (low, spread) in given.items()}
    spread = max((d.high_s for d in delays.values()), default=0) - min((d.low_s for d in delays.values()), default=0)
    assert checks(plausibility.stamp_offsets(delays, LIMITS)) == (["stamp_offset"] if spread > 0.1 else [])


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 300), st.floats(-1, 1), st.floats(-2, 2), st.integers(0, 10**6))
def test_delay_shows_a_drift_in_any_order_of_messages(count: int, offset_s: float, drift_s: float, seed: int) -> None:
    log_ns = np.arange(count) * 30_000_000
    stamps_ns = log_ns - np.rint((offset_s + drift_s * np.arange(count) / count) * 1e9).astype(np.int64)
    order = np.random.default_rng(seed).permutation(count)
    low, high = plausibility.delay(stamps_ns[order], log_ns[order])
    ends = sorted((offset_s, offset_s + drift_s))
    assert ends[0] - 1e-6 <= low <= high <= ends[1] + 1e-6
    if count >= 64:
        assert high - low >= abs(drift_s) * 0.8 - 1e-6


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda flags: len(set(flags)) == 2),
    st.floats(0, 1),
    st.floats(0.12, 1),
    st.integers(0, 10**6),
)
def test_two_gripper_levels_become_open_and_closed(flags: list[bool], low: float, span: float, seed: int) -> None:
    low = min(low, 1 - span) if span < 1 else 0.0
    noise = np.random.default_rng(seed).uniform(-0.005, 0.005, len(flags))
    values = np.where(flags, low + span, low) + noise
    assert switching(values, "here").tolist() == [1.0 if flag else -1.0 for flag in flags]


@settings(max_examples=50, deadline=None)
@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-1e3, 1e3)))
def test_any_gripper_values_become_commands_or_raise_value_error(values: np.ndarray) -> None:
    message, commands = "", np.ones(len(values))
    try:
        commands = switching(values, "here")
    except ValueError as error:
        message = str(error)
    assert "\n" not in message and message.startswith("here: "[: len(message)])
    assert set(commands.tolist()) <= {-1.0, 1.0} and len(commands) == len(values)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 12), st.data())
def test_no_array_raises(count: int, data: st.DataObject) -> None:
    def drawn(*shape: int) -> np.ndarray:
        return data.draw(arrays(np.float64, shape, elements=st.floats(allow_nan=True, allow_infinity=True)))

    with np.errstate(all="ignore"):
        stamps, poses = drawn(count), drawn(count, 7)
        found = [
            *plausibility.gaps(stamps, LIMITS),
            *plausibility.rate(stamps, 10.0, LIMITS),
            *plausibility.jumps(stamps, poses, LIMITS),
            *motion(poses, drawn(max(count - 1, 0), 6), LIMITS),
            *plausibility.clipped(drawn(count) > 1, LIMITS),
        ]
    assert all("\n" not in problem.message for problem in found)


@pytest.mark.parametrize("scale", [0.0, 1e-160, 6.7e153, 1e308])
def test_quaternions_without_a_usable_length_are_ignored(scale: float) -> None:
    """Their squares under- or overflow, and SciPy would raise."""
    poses = np.full((30, 7), scale)
    with np.errstate(all="ignore"):
        assert not list(motion(poses, np.ones((29, 6)), LIMITS))


def test_refuse_names_the_place_and_ignores_warnings() -> None:
    warning, error = Problem("warning", "gap", "long"), Problem("error", "jump", "far")
    plausibility.refuse([warning], "bag")
    with pytest.raises(UserError, match=r"^bag: far$"):
        plausibility.refuse([warning, error], "bag")
