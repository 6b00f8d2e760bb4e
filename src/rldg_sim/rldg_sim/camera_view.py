"""Where a simulated camera is and how it projects, as a camera driver reports it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose

Array = NDArray[np.float64]

_OPTICAL_FROM_MUJOCO = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up; optical frames along z with y down (REP-103)."""


@dataclass(frozen=True)
class CameraView:
    """pose_base_optical (7,): x right, y down, z forward; fovy_rad: vertical angle of view."""

    pose_base_optical: Array
    fovy_rad: float

    def intrinsics(self, width: int, height: int) -> Array:
        """Return the camera matrix K (3, 3) [px] of an image of that size: square pixels, centres at whole numbers."""
        focal = height / 2 / math.tan(self.fovy_rad / 2)
        return np.array([[focal, 0.0, (width - 1) / 2], [0.0, focal, (height - 1) / 2], [0.0, 0.0, 1.0]])


def camera_view(position: Array, axes: Array, fovy_deg: float) -> CameraView:
    """Of MuJoCo's camera: position (3,) [m] and axes (9,), both in base, and vertical angle."""
    rotation = Rotation.from_matrix(np.reshape(axes, (3, 3)) @ _OPTICAL_FROM_MUJOCO)
    return CameraView(pose(np.array(position), rotation.as_quat()), math.radians(fovy_deg))
