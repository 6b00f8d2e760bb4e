"""Joints by name, and the limits of one observation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.joints import arm_positions, finger_width_m
from rldg_core.plausible import JOINT_RAD, REACH_M, WIDTH_M, check_observation
from rldg_core.types import Observation

ARM = [f"joint{k}" for k in range(1, 8)]
FINGERS = ["finger_joint1", "finger_joint2"]
PREFIXES = st.sampled_from(["", "fr3_", "panda_", "fer_", "robot1_fr3_", "left/fr3_", "my_finger_lab_"])


@given(prefix=PREFIXES, order=st.permutations(range(11)))
@settings(max_examples=100, deadline=None)
def test_order_prefix_and_other_joints_are_ignored(prefix: str, order: list[int]) -> None:
    names = [f"{prefix}{n}" for n in (*ARM, *FINGERS)] + ["wheel_joint", f"{prefix}joint8"]
    positions = [0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7, 0.03, 0.01, 9.0, 8.0]
    names, positions = [names[i] for i in order], [positions[i] for i in order]
    np.testing.assert_array_equal(arm_positions(names, positions), [0.1, 0.2, 0.3, -0.4, 0.5, 0.6, 0.7])
    assert finger_width_m(names, positions) == pytest.approx(0.04)


NAMES = [f"fr3_{name}" for name in (*ARM, *FINGERS)]


@pytest.mark.parametrize(
    ("names", "positions", "found"),
    [
        ([], [], "joints are not named"),
        ([], [0.0] * 7, "0 joint names with 7 positions"),
        (NAMES, [], "9 joint names with 0 positions"),
        (NAMES[:6], [0.0] * 6, "joints are 'fr3_joint1', 'fr3_joint2'"),
        (NAMES[7:], [0.0] * 2, "joints are 'fr3_finger_joint1', 'fr3_finger_joint2'"),
        (["shoulder_pan_joint", "elbow_joint"], [0.0] * 2, "joints are 'shoulder_pan_joint', 'elbow_joint'"),
        ([*NAMES[:7], "fr3_joint3"], [0.0] * 8, "joint 'fr3_joint3' is there twice"),
        ([*NAMES[:7], "robot2_fr3_joint3"], [0.0] * 8, "joints are 'fr3_joint1'"),
        (NAMES[:7], [0.0, float("nan"), *[0.0] * 5], "joint 'fr3_joint2' is nan"),
        (NAMES[:7], [0.0] * 6 + [float("inf")], "joint 'fr3_joint7' is inf"),
        (["\n" * 5_000_000], [0.0], "joints are "),
    ],
)
def test_unmatched_arm_joints_are_refused_with_found_and_expected(
    names: list[str], positions: list[float], found: str
) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        arm_positions(names, positions)
    assert str(error.value).startswith(found)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("names", "positions", "found"),
    [
        (NAMES[:8], [0.0] * 8, "joints are 'fr3_joint1'"),
        (NAMES[:7], [0.4] * 7, "joints are 'fr3_joint1'"),
        ([NAMES[7], NAMES[7]], [0.01] * 2, "joint 'fr3_finger_joint1' is there twice"),
        (NAMES[7:], [0.01, float("nan")], "joint 'fr3_finger_joint2' is nan"),
    ],
)
def test_merged_topic_without_both_fingers_is_refused(names: list[str], positions: list[float], found: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        finger_width_m(names, positions)
    assert str(error.value).startswith(found)


GOOD = Observation(
    stamp_ns=1,
    images={"wrist": b"jpeg"},
    pose_base_tcp=np.array([0.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0]),
    twist_base_tcp=np.zeros(6),
    wrench_tcp=np.array([1.0, -2.0, 30.0, 0.0, 0.1, 0.0]),
    joint_positions=np.array([0.0, -0.8, 0.0, -2.4, 0.0, 1.6, 0.8]),
    gripper_width_m=0.04,
)


def test_observations_at_the_limits_are_accepted() -> None:
    check_observation(GOOD)
    check_observation(replace(GOOD, gripper_width_m=float("nan"), joint_positions=np.empty(0)))
    check_observation(replace(GOOD, pose_base_tcp=np.array([REACH_M, 0, 0, 0, 0, 0, -1.0])))
    check_observation(replace(GOOD, joint_positions=np.full(7, -JOINT_RAD)))
    for width_m in WIDTH_M:
        check_observation(replace(GOOD, gripper_width_m=width_m))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pose_base_tcp": [1e300, 0, 0, 0, 0, 0, 1]}, "pose_base_tcp: 1e+300 m from base, expected at most 2 m"),
        ({"pose_base_tcp": [500.0, 0, 200.0, 0, 0, 0, 1]}, "pose_base_tcp: 538.5 m from base, expected at most 2 m"),
        ({"pose_base_tcp": [0.5, 0, 0, 0, 0, 0, 0]}, "pose_base_tcp: quaternion xyzw [0, 0, 0, 0] has length 0, ex"),
        ({"pose_base_tcp": [0.5, 0, 0, 0, 0, 1]}, "pose_base_tcp: 6 values, expected 7"),
        ({"pose_base_tcp": [math.nan, 0, 0, 0, 0, 0, 1]}, "pose_base_tcp: [nan, 0, 0, 0, 0, 0, 1], expected finite"),
        ({"wrench_tcp": [0, 0, math.nan, 0, 0, 0]}, "wrench_tcp: [0, 0, nan, 0, 0, 0], expected finite"),
        ({"wrench_tcp": [0, 0, -1e300, 0, 0, 0]}, "wrench_tcp: 1e+300 N, expected at most 1000 N"),
        ({"wrench_tcp": [0, 0, 0, 0, 0, 5e3]}, "wrench_tcp: 5000 N m, expected at most 500 N m"),
        ({"twist_base_tcp": [0, 0, 11, 0, 0, 0]}, "twist_base_tcp: 11 m/s, expected at most 10 m/s"),
        ({"twist_base_tcp": [0, 0, 0, 0, math.inf, 0]}, "twist_base_tcp: [0, 0, 0, 0, inf, 0], expected finite"),
        ({"joint_positions": [0] * 6}, "joint_positions: 6 values, expected 7"),
        ({"joint_positions": [0, 0, 0, -135.0, 0, 0, 0]}, "joint_positions: joint 4 is at -135, expected at most 6.38"),
        ({"gripper_width_m": 2.88}, "gripper_width_m: 2.88 m, expected 0 to 0.2 m"),
        ({"gripper_width_m": -0.1}, "gripper_width_m: -0.1 m, expected 0 to 0.2 m"),
        ({"gripper_width_m": math.inf}, "gripper_width_m: inf m, expected 0 to 0.2 m"),
    ],
)
def test_implausible_number_is_refused(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        check_observation(replace(GOOD, **{k: np.array(v) if isinstance(v, list) else v for k, v in change.items()}))
    assert str(error.value).startswith(line)


@given(st.lists(st.floats(), min_size=7, max_size=7), st.lists(st.floats(), min_size=6, max_size=6))
@settings(max_examples=200, deadline=None)
def test_accepted_observations_fit_into_float32(pose: list[float], wrench: list[float]) -> None:
    value = replace(GOOD, pose_base_tcp=np.array(pose), wrench_tcp=np.array(wrench))
    refusal = ""
    try:
        check_observation(value)
    except ValueError as error:
        refusal = str(error)
    fits = bool(np.all(np.abs(np.concatenate([pose, wrench])) <= np.finfo(np.float32).max))
    assert (fits and not refusal) or ("expected" in refusal and "\n" not in refusal)
