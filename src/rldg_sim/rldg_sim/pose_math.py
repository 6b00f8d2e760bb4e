"""Poses in the conventions of MuJoCo, one at a time."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def wxyz(quaternion_xyzw: Array) -> Array:
    """Quaternion as MuJoCo writes it."""
    return quaternion_xyzw[[3, 0, 1, 2]]


def relative_pose(frame_rotation: Array, frame_position: Array, rotation: Array, position: Array) -> Array:
    """Pose (7,) in a frame, both given as rotation matrix (3, 3) and position (3,) in the world; qw >= 0."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, (frame_rotation.T @ rotation).ravel())
    quaternion *= np.sign(quaternion[0]) or 1.0
    return np.concatenate([frame_rotation.T @ (position - frame_position), quaternion[1:], quaternion[:1]])


def turn_of(pose: Array) -> float:
    """Angle of a pose's rotation [rad]."""
    return 2 * float(np.arcsin(min(1.0, float(np.linalg.norm(pose[3:6])))))
