"""Limits of the numbers of one observation, shared by observer, bag lint, importers and exporters.

They do not protect the robot. They are wide enough for any arm that data may come from, and narrow enough to refuse a
wrong unit (mm, degrees), an uninitialised field or a broken driver at input. Each check raises ValueError with one
line: field, what was found, what was expected.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rldg_core.types import Float64, Observation

REACH_M = 2.0
"""Maximum distance of the tcp from base. Arms in use reach 0.85 to 1.75 m, and the tool is added."""

QUATERNION_TOLERANCE = 1e-2
"""Tolerance of the norm of a unit quaternion."""

SPEED_M_S, SPEED_RAD_S = 10.0, 35.0
"""Maximum speed of the tcp. Arms stop at about 3 m/s and 2.5 rad/s; the margin allows for differentiated poses."""

FORCE_N, TORQUE_NM = 1000.0, 500.0
"""Maximum external wrench. Collaborative arms: about 100 N; the margin is for contact peaks of simulators."""

JOINT_RAD = 2 * math.pi + 0.1
"""Maximum magnitude: the widest joints of common arms turn one full turn each way. Degrees are refused."""

ARM_JOINTS = 7

WIDTH_M = (-0.002, 0.2)
"""Range of the finger distance, which calibration may put slightly below 0; common hands open to 0.08 or 0.14 m."""


def check_pose(pose_base_tcp: ArrayLike, field: str = "pose_base_tcp") -> None:
    """Check position [m] and unit quaternion xyzw, (7,)."""
    values = _finite(pose_base_tcp, 7, field)
    distance_m = _length(values[:3])
    if distance_m > REACH_M:
        raise ValueError(f"{field}: {distance_m:.4g} m from base, expected at most {REACH_M:g} m (positions in m?)")
    check_quaternion(values[3:], field)


def check_quaternion(quaternion_xyzw: ArrayLike, field: str = "orientation") -> None:
    """Check a unit quaternion, (4,)."""
    values = _finite(quaternion_xyzw, 4, field)
    norm = _length(values)
    if abs(norm - 1.0) > QUATERNION_TOLERANCE:
        raise ValueError(f"{field}: quaternion xyzw {_text(values)} has length {norm:.4g}, expected 1")


def check_twist(twist_base_tcp: ArrayLike, field: str = "twist_base_tcp") -> None:
    """Check linear and angular velocity, (6,) [m/s, rad/s]."""
    values = _finite(twist_base_tcp, 6, field)
    _at_most(_length(values[:3]), SPEED_M_S, "m/s", field)
    _at_most(_length(values[3:]), SPEED_RAD_S, "rad/s", field)


def check_wrench(wrench_tcp: ArrayLike, field: str = "wrench_tcp") -> None:
    """Check force and torque, (6,) [N, N m]."""
    values = _finite(wrench_tcp, 6, field)
    _at_most(_length(values[:3]), FORCE_N, "N", field)
    _at_most(_length(values[3:]), TORQUE_NM, "N m", field)


def check_joints(joint_positions: ArrayLike, field: str = "joint_positions") -> None:
    """Check the arm's joints [rad]: (7,), or (0,) where the driver publishes none."""
    values = np.asarray(joint_positions, dtype=np.float64)
    if values.shape == (0,):
        return
    values = _finite(values, ARM_JOINTS, field)
    worst = int(np.argmax(np.abs(values)))
    if abs(values[worst]) > JOINT_RAD:
        raise ValueError(
            f"{field}: joint {worst + 1} is at {values[worst]:.4g}, expected at most {JOINT_RAD:.3g} rad in magnitude"
        )


def check_width(gripper_width_m: float, field: str = "gripper_width_m") -> None:
    """Check the distance between the fingers [m]; NaN means unknown (Observation.msg)."""
    low, high = WIDTH_M
    if not (math.isnan(gripper_width_m) or low <= gripper_width_m <= high):
        raise ValueError(f"{field}: {gripper_width_m:.4g} m, expected 0 to {high:g} m, or NaN if unknown")


def check_observation(observation: Observation) -> None:
    """Check every number of an observation; images are checked where they are decoded."""
    check_pose(observation.pose_base_tcp)
    check_twist(observation.twist_base_tcp)
    check_wrench(observation.wrench_tcp)
    check_joints(observation.joint_positions)
    check_width(observation.gripper_width_m)


def _finite(values: ArrayLike, count: int, field: str) -> Float64:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (count,):
        raise ValueError(f"{field}: {array.size} values, expected {count}")
    if not np.isfinite(array).all():
        raise ValueError(f"{field}: {_text(array)}, expected finite numbers")
    return array


def _at_most(found: float, limit: float, unit: str, field: str) -> None:
    if found > limit:
        raise ValueError(f"{field}: {found:.4g} {unit}, expected at most {limit:g} {unit}")


def _length(values: Float64) -> float:
    """Euclidean length; math.hypot does not overflow where a sum of squares would."""
    return math.hypot(*values.tolist())


def _text(values: Float64) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"
