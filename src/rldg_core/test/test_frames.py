"""Deltas in tcp axes, offsets and the safety box."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rldg_core.frames import (
    SafetyBox,
    compose_delta,
    delta_between,
    offset_from,
    pose,
    pose_at,
    rotation_of,
)

small = st.floats(-0.3, 0.3)
vectors3 = st.tuples(small, small, small).map(np.array)
poses = st.tuples(
    st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1)
).map(lambda v: pose(*v))
deltas = st.tuples(vectors3, vectors3).map(np.concatenate)


def same_rotation(a: np.ndarray, b: np.ndarray) -> bool:
    return (rotation_of(a).inv() * rotation_of(b)).magnitude() < 1e-9


def test_pure_translation_at_0_6_m_does_not_rotate() -> None:
    """The full adjoint would rotate the tool by 0.06 rad per step here."""
    measured = pose([0.6, 0.0, 0.2], Rotation.from_euler("xyz", [np.pi, 0.1, 0.4]).as_quat())
    target = compose_delta(measured, [0.01, -0.02, 0.015, 0, 0, 0])
    assert same_rotation(measured, target)
    assert np.isclose(np.linalg.norm(target[:3] - measured[:3]), np.linalg.norm([0.01, -0.02, 0.015]))


def test_pure_rotation_at_0_6_m_does_not_translate() -> None:
    measured = pose([0.6, 0.0, 0.2], [1, 0, 0, 0])
    target = compose_delta(measured, [0, 0, 0, 0.0, 0.0, 0.1])
    np.testing.assert_allclose(target[:3], measured[:3])


def test_forward_of_a_downward_tool_is_down() -> None:
    target = compose_delta(pose([0.5, 0, 0.2], [1, 0, 0, 0]), [0, 0, 0.01, 0, 0, 0])
    np.testing.assert_allclose(target[:3], [0.5, 0, 0.19], atol=1e-12)


@given(poses, deltas)
def test_delta_between_inverts_compose(measured: np.ndarray, delta: np.ndarray) -> None:
    np.testing.assert_allclose(delta_between(measured, compose_delta(measured, delta)), delta, atol=1e-9)


@given(poses, deltas)
def test_pose_at_inverts_offset(reference: np.ndarray, offset: np.ndarray) -> None:
    np.testing.assert_allclose(offset_from(reference, pose_at(reference, offset)), offset, atol=1e-9)


limits = st.tuples(*[st.floats(0.0, 0.2)] * 6).map(np.array)


@settings(max_examples=200)
@given(poses, deltas, limits, limits)
def test_clipped_pose_is_inside_the_box(
    reference: np.ndarray, offset: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    box = SafetyBox(reference, -low, high)
    outside = pose_at(reference, offset * 3)
    clipped, changed = box.clip(outside)
    inside = offset_from(reference, clipped)
    assert np.all(inside >= -low - 1e-6)
    assert np.all(inside <= high + 1e-6)
    again, changed_again = box.clip(clipped)
    assert not changed_again or np.allclose(again, clipped, atol=1e-6)
    if not changed:
        np.testing.assert_array_equal(clipped, outside)


def test_limits_of_zero_allow_no_motion() -> None:
    """An `if limit:` would switch off such a limit."""
    reference = pose([0.5, 0, 0.15], [1, 0, 0, 0])
    box = SafetyBox(reference, np.zeros(6), np.zeros(6))
    clipped, changed = box.clip(pose_at(reference, [0.01, -0.01, 0.02, 0.01, 0.0, -0.05]))
    assert changed
    np.testing.assert_allclose(offset_from(reference, clipped), np.zeros(6), atol=1e-12)


def test_single_zero_limit_applies_beside_others() -> None:
    reference = pose([0.5, 0, 0.15], [1, 0, 0, 0])
    box = SafetyBox(reference, np.array([-0.05, -0.05, 0.0, -1, -1, -1]), np.array([0.05, 0.05, 0.05, 1, 1, 1]))
    clipped, changed = box.clip(pose_at(reference, [0.01, 0.0, -0.02, 0, 0, 0]))
    assert changed
    np.testing.assert_allclose(offset_from(reference, clipped), [0.01, 0, 0, 0, 0, 0], atol=1e-12)
