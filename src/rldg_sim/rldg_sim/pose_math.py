"""Poses in the conventions of MuJoCo, one at a time, and inverse kinematics."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError

Array = NDArray[np.float64]


def wxyz(quaternion_xyzw: Array) -> Array:
    """Quaternion as MuJoCo writes it."""
    return quaternion_xyzw[[3, 0, 1, 2]]


def pose_of(position: Array, quaternion_wxyz: Array) -> Array:
    """Pose (7,) of a position (3,) and a quaternion as MuJoCo writes it."""
    return np.concatenate([position, quaternion_wxyz[1:], quaternion_wxyz[:1]])


def relative_pose(frame_rotation: Array, frame_position: Array, rotation: Array, position: Array) -> Array:
    """Pose (7,) in a frame, both given as rotation matrix (3, 3) and position (3,) in the world; qw >= 0."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, (frame_rotation.T @ rotation).ravel())
    quaternion *= np.sign(quaternion[0]) or 1.0
    return pose_of(frame_rotation.T @ (position - frame_position), quaternion)


def rotation_angle(pose: Array) -> float:
    """Angle of a pose's rotation [rad]."""
    return 2 * float(np.arcsin(min(1.0, float(np.linalg.norm(pose[3:6])))))


def difference(pose_base_tcp: Array, target_base_tcp: Array) -> Array:
    """Translation [m] and rotation vector [rad] from a pose to a target, (6,), both in base axes."""
    quaternion = wxyz(pose_base_tcp[3:])
    local, turn = np.empty(3), np.empty(3)
    mujoco.mju_subQuat(local, wxyz(target_base_tcp[3:]), quaternion)
    mujoco.mju_rotVecQuat(turn, local, quaternion)
    return np.concatenate([target_base_tcp[:3] - pose_base_tcp[:3], turn])


def site_pose(data: Any, site: int) -> Array:
    """Pose (7,) of a site in the world: position [m], quaternion xyzw."""
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, data.site_xmat[site])
    return pose_of(data.site_xpos[site], quaternion)


def solve_ik(model: Any, data: Any, site: int, pose_base_tcp: Array, q_start: Array, what: str) -> Array:
    """Return joint positions (7,) [rad] near q_start that bring the site to a pose within 1e-7 m and rad.

    Damped least squares on the site's Jacobian. Leaves data.qpos at the solution. Raises UserError naming `what` when
    the pose is out of reach.
    """
    q = q_start.copy()
    low, high = model.jnt_range[:7].T
    jacobian = np.zeros((6, model.nv))
    for _ in range(100):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        pose = site_pose(data, site)
        error = difference(pose, pose_base_tcp)
        if np.abs(error).max() < 1e-7:
            return q
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], site)
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-6 * np.eye(6), error)
        q = np.clip(q + np.clip(step[:7], -0.3, 0.3), low, high)
    raise UserError(f"{what} {np.round(pose_base_tcp, 4).tolist()} is out of the arm's reach")
