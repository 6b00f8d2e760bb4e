"""Actions, poses and twists describe one motion: noise, lag and contact pass; other frames, orders and units do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from rldg_core.frames import compose_delta, twists_of
from rldg_data.motion import motion, twist
from rldg_data.plausibility import Limits

Floats = NDArray[np.float64]
SCALE = np.array([0.015] * 3 + [0.1] * 3)
LIMITS = Limits()
seeds = st.integers(0, 10**6)


class MotionSample(NamedTuple):
    """A synthetic episode: stamps (N,), poses (N, 7), deltas (N - 1, 6) in tcp axes, twists (N, 6) in base axes."""

    stamps_s: Floats
    poses: Floats
    deltas: Floats
    twists: Floats


def episode(seed: int, steps: int = 60, period_s: float = 0.1) -> MotionSample:
    """Return smooth motions of a person in all axes, with the tool pointing down."""
    rng = np.random.default_rng(seed)
    deltas = gaussian_filter1d(rng.normal(size=(steps - 1, 6)), 3.0, axis=0)
    deltas *= 0.7 / np.abs(deltas).max(axis=0) * SCALE * [1, 1, 1, 0.4, 0.4, 0.4]
    poses = [np.array([0.5, 0.0, 0.2, *Rotation.from_euler("xyz", [np.pi, *rng.uniform(-0.3, 0.3, 2)]).as_quat()])]
    for delta in deltas:
        poses.append(compose_delta(poses[-1], delta))
    stamps_s = np.arange(steps) * period_s
    return MotionSample(stamps_s, np.array(poses), deltas, twists_of(stamps_s, poses))


def findings_of(one: MotionSample) -> list[tuple[str, str, str]]:
    found = [*motion(one.poses, one.deltas, LIMITS), *twist(one.stamps_s, one.poses, one.twists, LIMITS)]
    return [tuple(problem) for problem in found]


def noisy(one: MotionSample, seed: int, lag: int) -> MotionSample:
    """Add three times the pose noise of an FR3, jitter of the stamps, a noisy twist late by one period, and a lagging
    arm."""
    rng = np.random.default_rng(seed)
    poses = one.poses.copy()
    poses[:, :3] += rng.normal(size=(len(poses), 3)) * 3e-4
    shaken = Rotation.from_rotvec(rng.normal(size=(len(poses), 3)) * 1e-3)
    poses[:, 3:] = (Rotation.from_quat(poses[:, 3:]) * shaken).as_quat()
    jitter_s = rng.uniform(-0.2, 0.2, len(poses)) * (one.stamps_s[1] - one.stamps_s[0])
    twists = np.roll(one.twists, lag % 2, axis=0) * rng.uniform(0.7, 1.3)
    twists += rng.normal(size=twists.shape) * ([0.005] * 3 + [0.02] * 3)
    return MotionSample(one.stamps_s + jitter_s, poses, np.roll(one.deltas, -lag, axis=0), twists)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(12, 120), st.sampled_from([0.2, 0.1, 1 / 15]), st.integers(0, 2))
def test_correct_motion_with_noise_and_lag_passes(seed: int, steps: int, period_s: float, lag: int) -> None:
    one = episode(seed, steps, period_s)
    assert findings_of(one) == []
    assert findings_of(noisy(one, seed, lag)) == []


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(0, 2), st.floats(0.0, 0.7))
def test_axis_in_contact_passes(seed: int, axis: int, gives_way: float) -> None:
    """The arm pushes along one axis throughout and yields partly or not at all."""
    one = episode(seed)
    asked = one.deltas.copy()
    asked[20:, axis] = -SCALE[axis]
    poses = [one.poses[0]]
    for k, delta in enumerate(asked):
        free = np.where(np.arange(6) == axis, gives_way if k >= 20 else 1.0, 1.0)
        poses.append(compose_delta(poses[-1], delta * free))
    assert findings_of(MotionSample(one.stamps_s, np.array(poses), asked, twists_of(one.stamps_s, poses))) == []


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_sliding_during_a_push_passes(seed: int) -> None:
    """Only a push along z is commanded, and the tool slides along x."""
    rng = np.random.default_rng(seed)
    asked = np.tile([0.0, 0.0, -0.01, 0.0, 0.0, 0.0], (40, 1)) + rng.normal(size=(40, 6)) * 1e-4
    poses = [np.array([0.5, 0, 0.2, 1, 0, 0, 0])]
    for _ in asked:
        poses.append(compose_delta(poses[-1], [0.001, 0, 0, 0, 0, 0]))
    assert list(motion(np.array(poses), asked, LIMITS)) == []


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(0.05, 0.3))
def test_arm_that_settles_before_its_stamp_passes(seed: int, remains: float) -> None:
    """The instantaneous twist is a small part of the mean one, and its noise is independent."""
    one, rng = episode(seed), np.random.default_rng(seed)
    shaken = one.twists * remains + rng.normal(size=one.twists.shape) * np.abs(one.twists).std(axis=0) * remains
    assert findings_of(one._replace(twists=shaken)) == []


def columns(values: Floats, *order: int) -> Floats:
    return values[:, list(order)]


def with_opposite_sign(values: Floats, *axes: int) -> Floats:
    return values * np.where(np.isin(np.arange(6), axes), -1.0, 1.0)


def in_base(one: MotionSample, values: Floats, inverse: bool = False) -> Floats:
    rotations = Rotation.from_quat(one.poses[: len(values), 3:])
    return np.concatenate([rotations.apply(part, inverse) for part in (values[:, :3], values[:, 3:])], axis=1)


WRONG: dict[str, tuple[Callable[[MotionSample], MotionSample], str]] = {
    "rotations of the other sign": (lambda e: e._replace(deltas=with_opposite_sign(e.deltas, 3, 4, 5)), "motion"),
    "one rotation of the other sign": (lambda e: e._replace(deltas=with_opposite_sign(e.deltas, 4)), "motion"),
    "one translation of the other sign": (lambda e: e._replace(deltas=with_opposite_sign(e.deltas, 1)), "motion"),
    "x and y swapped": (lambda e: e._replace(deltas=columns(e.deltas, 1, 0, 2, 3, 4, 5)), "motion"),
    "x, y, z in a circle": (lambda e: e._replace(deltas=columns(e.deltas, 1, 2, 0, 3, 4, 5)), "motion"),
    "roll and yaw swapped": (lambda e: e._replace(deltas=columns(e.deltas, 0, 1, 2, 5, 4, 3)), "motion"),
    "deltas in base axes": (lambda e: e._replace(deltas=in_base(e, e.deltas)), "motion"),
    "rotations in base axes": (
        lambda e: e._replace(deltas=np.hstack([e.deltas[:, :3], in_base(e, e.deltas)[:, 3:]])),
        "motion",
    ),
    "radians as degrees": (lambda e: e._replace(deltas=e.deltas * ([1.0] * 3 + [np.pi / 180] * 3)), "motion"),
    "quaternion w first": (lambda e: e._replace(poses=columns(e.poses, 0, 1, 2, 6, 3, 4, 5)), "motion"),
    "quaternion of the inverse": (lambda e: e._replace(poses=e.poses * [1, 1, 1, -1, -1, -1, 1]), "motion"),
    "twist in tcp axes": (lambda e: e._replace(twists=in_base(e, e.twists, inverse=True)), "twist"),
    "twist swapped": (lambda e: e._replace(twists=columns(e.twists, 3, 4, 5, 0, 1, 2)), "twist"),
    "twist of the other sign": (lambda e: e._replace(twists=-e.twists), "twist"),
    "twist with x and y swapped": (lambda e: e._replace(twists=columns(e.twists, 1, 0, 2, 3, 4, 5)), "twist"),
    "twist with one sign": (lambda e: e._replace(twists=with_opposite_sign(e.twists, 5)), "twist"),
    "twist in mm/s": (lambda e: e._replace(twists=e.twists * ([1000.0] * 3 + [1.0] * 3)), "twist"),
    "twist in deg/s": (lambda e: e._replace(twists=e.twists * ([1.0] * 3 + [180 / np.pi] * 3)), "twist"),
    "twist as deltas per step": (lambda e: e._replace(twists=e.twists * 0.1), "twist"),
    "twist of another episode": (lambda e: e._replace(twists=episode(987, len(e.poses)).twists), "twist"),
}


@pytest.mark.parametrize("name", WRONG)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 900), is_noisy=st.booleans())
def test_wrong_convention_is_named(name: str, seed: int, is_noisy: bool) -> None:
    change, check = WRONG[name]
    one = episode(seed, 100)
    wrong = change(noisy(one, seed, 1) if is_noisy else one)
    assert ("error", check) in {(severity, kind) for severity, kind, _ in findings_of(wrong)}
    assert all("\n" not in message for _, _, message in findings_of(wrong))


def test_source_without_twist_is_a_named_warning() -> None:
    one = episode(3)
    (linear, angular) = findings_of(one._replace(twists=one.twists * 0))
    assert linear[:2] == angular[:2] == ("warning", "twist")
    assert "linear twist of zeros" in linear[2] and "angular twist of zeros" in angular[2]


def test_too_little_motion_gives_no_finding() -> None:
    one = episode(4)
    still = MotionSample(one.stamps_s, np.tile(one.poses[0], (60, 1)), -one.deltas, one.twists * 0)
    assert findings_of(still) == []
    short = MotionSample(*(values[:8] for values in one))
    assert findings_of(short._replace(deltas=-short.deltas[:7], twists=-short.twists)) == []
