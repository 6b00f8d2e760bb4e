"""SE(3) in the conventions of the suite: poses of the tcp in base, deltas in the tcp (wrist) frame.

A pose is a float64 array of 7: position [m], quaternion xyzw (REP-103, as in geometry_msgs/Pose).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]

POSE_DIM = 7
DELTA_DIM = 6


def pose(position: ArrayLike, quaternion_xyzw: ArrayLike = (0.0, 0.0, 0.0, 1.0)) -> Array:
    """Build a pose [x y z qx qy qz qw]; the quaternion is normalised. Raises ValueError on a zero quaternion."""
    rotation = Rotation.from_quat(np.asarray(quaternion_xyzw, dtype=np.float64))
    return np.concatenate([np.asarray(position, dtype=np.float64), rotation.as_quat()])


def rotation_of(pose_base_tcp: ArrayLike) -> Rotation:
    """Rotation part of a pose."""
    return Rotation.from_quat(np.asarray(pose_base_tcp, dtype=np.float64)[3:7])


def compose_delta(pose_base_tcp: ArrayLike, delta_tcp: ArrayLike) -> Array:
    """Target pose = measured pose composed with a body-frame delta.

    `delta_tcp` is (6,): translation [m] and rotation vector [rad], both expressed in tcp axes. Only the
    rotation changes the frame of the translation: there is no lever arm, so a pure translation never
    rotates the tool, wherever it is (the full adjoint would leak 0.06 rad per step at x = 0.6 m).
    """
    measured = np.asarray(pose_base_tcp, dtype=np.float64)
    delta = np.asarray(delta_tcp, dtype=np.float64)
    rotation = rotation_of(measured)
    position = measured[:3] + rotation.apply(delta[:3])
    quaternion = (rotation * Rotation.from_rotvec(delta[3:6])).as_quat()
    return np.concatenate([position, quaternion])


def delta_between(pose_base_tcp: ArrayLike, target_base_tcp: ArrayLike) -> Array:
    """Inverse of `compose_delta`: the body-frame delta (6,) that leads from one pose to the other."""
    start = np.asarray(pose_base_tcp, dtype=np.float64)
    target = np.asarray(target_base_tcp, dtype=np.float64)
    rotation = rotation_of(start)
    translation = rotation.inv().apply(target[:3] - start[:3])
    return np.concatenate([translation, (rotation.inv() * rotation_of(target)).as_rotvec()])


def twists_of(stamps_s: ArrayLike, poses_base_tcp: ArrayLike) -> Array:
    """Return twists (N, 6) in base axes [m/s, rad/s] of poses (N, 7) at increasing stamps (N,): backward differences.

    Zero at the first pose. Same rule as the observer: the mean over the period that ends at the stamp.
    """
    poses = np.asarray(poses_base_tcp, dtype=np.float64)
    periods_s = np.diff(np.asarray(stamps_s, dtype=np.float64))[:, None]
    rotations = Rotation.from_quat(poses[:, 3:7])
    turns = (rotations[1:] * rotations[:-1].inv()).as_rotvec().reshape(-1, 3)
    moved = np.concatenate([np.diff(poses[:, :3], axis=0), turns], axis=1) / periods_s
    return np.concatenate([np.zeros((1, DELTA_DIM)), moved])


def offset_from(reference_base: ArrayLike, pose_base_tcp: ArrayLike) -> Array:
    """Offset of a pose from a reference, (6,): translation in base axes [m], rotation vector in the reference [rad]."""
    reference = np.asarray(reference_base, dtype=np.float64)
    value = np.asarray(pose_base_tcp, dtype=np.float64)
    rotation = rotation_of(reference).inv() * rotation_of(value)
    return np.concatenate([value[:3] - reference[:3], rotation.as_rotvec()])


def pose_at(reference_base: ArrayLike, offset: ArrayLike) -> Array:
    """Inverse of `offset_from`."""
    reference = np.asarray(reference_base, dtype=np.float64)
    values = np.asarray(offset, dtype=np.float64)
    quaternion = (rotation_of(reference) * Rotation.from_rotvec(values[3:6])).as_quat()
    return np.concatenate([reference[:3] + values[:3], quaternion])


@dataclass(frozen=True)
class SafetyBox:
    """Limits of the tcp's offset from `reference_base` (see `offset_from`): low and high, (6,) [m, rad].

    A limit of exactly 0.0 is a valid limit.
    """

    reference_base: Array
    low: Array
    high: Array

    def clip(self, pose_base_tcp: ArrayLike) -> tuple[Array, bool]:
        """Return the nearest pose inside the box and whether it differs (by more than 1e-9)."""
        offset = offset_from(self.reference_base, pose_base_tcp)
        clipped = np.clip(offset, self.low, self.high)
        if np.all(np.abs(clipped - offset) <= 1e-9):
            return np.asarray(pose_base_tcp, dtype=np.float64), False
        return pose_at(self.reference_base, clipped), True
