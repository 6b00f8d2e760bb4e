"""Errors of the arm: where it stands beside its fixture, friction, the dynamic model, and late targets."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose
from rldg_core.seeding import derive_seed
from rldg_sim.panda import ARM_JOINTS, FRICTION_NM
from rldg_sim.pose_math import pose_of, wxyz
from rldg_sim.realism.presets import ArmRealism

Array = NDArray[np.float64]


def composed(first: Array, second: Array) -> Array:
    """Pose (7,) of `second`, given in the frame that `first` is the pose of."""
    position, quaternion = np.empty(3), np.empty(4)
    mujoco.mju_mulPose(position, quaternion, first[:3], wxyz(first[3:]), second[:3], wxyz(second[3:]))
    return pose_of(position, quaternion)


def inverse(of: Array) -> Array:
    """Inverse of a pose (7,)."""
    position, quaternion = np.empty(3), np.empty(4)
    mujoco.mju_negPose(position, quaternion, of[:3], wxyz(of[3:]))
    return pose_of(position, quaternion)


class ArmErrors:
    """Errors of one arm on one day.

    The fixture of a scene stands where the task says in the world; the arm's base stands beside the origin, so that
    in measured poses the fixture is displaced, about `fixture` (7,), by the day's error.
    """

    def __init__(self, realism: ArmRealism, day: int, fixture: Array) -> None:
        random = np.random.default_rng(derive_seed(day, "cell", "arm"))
        shift = random.normal(0.0, 1.0, 3) * realism.fixture_m
        turn = Rotation.from_rotvec(random.normal(0.0, 1.0, 3) * realism.fixture_rad)
        # base <- world: turns the fixture in its place, then moves it.
        position = fixture[:3]
        self.world_in_base: Array = pose(position + shift - turn.apply(position), turn.as_quat())
        self.base_in_world = inverse(self.world_in_base)
        self._turn = turn.as_matrix()
        self._friction_nm = realism.friction * np.array(FRICTION_NM)
        self._constant_nm, self._varying_nm = random.uniform(-0.5, 0.5, (2, ARM_JOINTS)) * realism.torque_error_nm
        self._phase_rad = random.uniform(-np.pi, np.pi, ARM_JOINTS)

    def place(self, model: Any) -> None:
        """Move the arm of a model, physical or drawn, that was just compiled."""
        link = model.body("link1")
        moved = composed(self.base_in_world, pose(link.pos, np.roll(link.quat, -1)))
        link.pos[:], link.quat[:] = moved[:3], wxyz(moved[3:])

    def stiffen(self, model: Any) -> None:
        """Write friction into a physical model that was just compiled."""
        model.dof_frictionloss[:ARM_JOINTS] = self._friction_nm
        model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_FRICTIONLOSS)

    def torques_nm(self, joint_positions: Array) -> Array:
        """Return the error of the dynamic model (7,) in a posture: it acts on the arm and on the estimated wrench.

        One half is constant (torque sensors), one half varies as gravity does, with the sine of the joint's angle.
        """
        return np.asarray(self._constant_nm + self._varying_nm * np.sin(joint_positions + self._phase_rad))

    def to_base(self, pose_world: Array) -> Array:
        """Pose (7,) in base, where `pose_world` is measured."""
        return composed(self.world_in_base, pose_world)

    def twist_to_base(self, twist_world: Array) -> Array:
        """Twist (6,) in base axes of one in world axes."""
        return np.asarray((twist_world.reshape(2, 3) @ self._turn.T).ravel())

    def to_world(self, pose_base: Array) -> Array:
        """Pose (7,) in the world of a pose that is measured in base."""
        return composed(self.base_in_world, pose_base)
