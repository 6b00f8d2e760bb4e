"""Inverse kinematics of the arm in the simulated cell: damped least squares on MuJoCo's site Jacobian."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_sim.pose_math import wxyz

Array = NDArray[np.float64]


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
    return np.concatenate([data.site_xpos[site], quaternion[1:], quaternion[:1]])


def solve_ik(model: Any, data: Any, site: int, pose_base_tcp: Array, q_start: Array, what: str) -> Array:
    """Joint positions (7,) [rad] that bring the site to a pose within 1e-7 m and rad, near q_start.

    Leaves data.qpos at the solution. Raises UserError naming `what` when the pose is out of reach.
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
