"""Franka Emika Panda as MJCF, built from the published tables.

Kinematics: Franka Control Interface documentation, "Denavit-Hartenberg parameters" (Craig's convention).
Limits: the same documentation, "Limits for Panda". Masses, centres of mass and inertias: identified by
Gaz et al., "Dynamic Identification of the Franka Emika Panda Robot With Retrieval of Feasible Parameters
Using Penalty-Based Optimization", RA-L 2019. Lengths in m, angles in rad, masses in kg.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

ARM_JOINTS = 7
FLANGE_M = 0.107
HAND_TCP_M = 0.1034
"""Distance hand -> tcp (between the finger tips), as Franka's default end-effector frame."""
HAND_MASS_KG = 0.73
GRIPPER_MAX_WIDTH_M = 0.08
# Viscous friction of the joints [N m s/rad]: damps the null space of the redundant arm, which the six
# Cartesian actuators do not see. At the tcp it is about 2 % of the paper's damping.
JOINT_DAMPING = 0.5


FRICTION_NM = (0.273, 0.436, 0.320, 0.640, 0.420, 0.152, 0.282)
"""Coulomb friction of the joints [N m]: half the height of the sigmoids that Gaz et al. identified."""


@dataclass(frozen=True)
class Link:
    """One row of the tables: (a, d, alpha) lead from the previous frame to this one.

    limit [rad], inertia about the centre of mass in the link's axes [kg m^2].
    """

    a: float
    d: float
    alpha: float
    limit: tuple[float, float]
    torque_nm: float
    mass_kg: float
    com: tuple[float, float, float]
    inertia: tuple[float, float, float, float, float, float]
    """xx, yy, zz, xy, xz, yz."""
    shape: tuple[tuple[float, float, float], tuple[float, float, float], float]
    """Capsule that is drawn: two ends in the link's frame and a radius [m]."""


_HALF_PI = math.pi / 2

LINKS: tuple[Link, ...] = (
    Link(
        0.0,
        0.333,
        0.0,
        (-2.8973, 2.8973),
        87,
        4.970684,
        (0.003875, 0.002081, -0.04762),
        (0.70337, 0.70661, 0.009117, -0.000139, 0.006772, 0.019169),
        ((0, 0, -0.19), (0, 0, 0), 0.06),
    ),
    Link(
        0.0,
        0.0,
        -_HALF_PI,
        (-1.7628, 1.7628),
        87,
        0.646926,
        (-0.003141, -0.02872, 0.003495),
        (0.007962, 0.02811, 0.025995, -0.003925, 0.010254, 0.000704),
        ((0, 0, -0.06), (0, 0, 0.06), 0.06),
    ),
    Link(
        0.0,
        0.316,
        _HALF_PI,
        (-2.8973, 2.8973),
        87,
        3.228604,
        (0.027518, 0.039252, -0.066502),
        (0.037242, 0.036155, 0.01083, -0.004761, -0.011396, -0.012805),
        ((0, 0, -0.17), (0, 0, -0.05), 0.06),
    ),
    Link(
        0.0825,
        0.0,
        _HALF_PI,
        (-3.0718, -0.0698),
        87,
        3.587895,
        (-0.05317, 0.104419, 0.027454),
        (0.025853, 0.019552, 0.028323, 0.007796, -0.001332, 0.008641),
        ((0, 0, -0.06), (0, 0, 0.06), 0.06),
    ),
    Link(
        -0.0825,
        0.384,
        -_HALF_PI,
        (-2.8973, 2.8973),
        12,
        1.225946,
        (-0.011953, 0.041065, -0.038437),
        (0.035549, 0.029474, 0.008627, -0.002117, -0.004037, 0.000229),
        ((0, 0.02, -0.26), (0, 0.03, -0.06), 0.055),
    ),
    Link(
        0.0,
        0.0,
        _HALF_PI,
        (-0.0175, 3.7525),
        12,
        1.666555,
        (0.060149, -0.014117, -0.010517),
        (0.001964, 0.004354, 0.005433, 0.000109, -0.001158, 0.000341),
        ((0, 0, -0.05), (0, 0, 0.03), 0.05),
    ),
    Link(
        0.088,
        0.0,
        _HALF_PI,
        (-2.8973, 2.8973),
        12,
        0.735522,
        (0.010517, -0.004252, 0.061597),
        (0.012516, 0.010027, 0.004815, -0.000428, -0.001196, -0.000741),
        ((0, 0, -0.02), (0, 0, 0.06), 0.045),
    ),
)

NOMINAL_Q: Array = np.array([0.0, 0.15, 0.0, -2.2, 0.0, 2.35, math.pi / 4])
"""Elbow-up posture with the tool pointing down in front of the base: where inverse kinematics starts."""


def _vector(values: tuple[float, ...]) -> str:
    return " ".join(f"{v:.9g}" for v in values)


def arm_mjcf(hand: str, drawn: bool) -> str:
    """Nested MJCF bodies of the arm, with the elements `hand` inside the hand's body (frame of the Franka hand).

    drawn: with the shapes of the links.
    """
    half = math.pi / 8
    inner = f"""
      <body name="hand" pos="0 0 {FLANGE_M}" quat="{math.cos(half):.9g} 0 0 {-math.sin(half):.9g}">
        <inertial pos="-0.01 0 0.03" mass="{HAND_MASS_KG}" diaginertia="0.001 0.0025 0.0017"/>
        {hand}
      </body>"""
    for index in range(len(LINKS), 0, -1):
        link = LINKS[index - 1]
        position = (link.a, -math.sin(link.alpha) * link.d, math.cos(link.alpha) * link.d)
        quaternion = (math.cos(link.alpha / 2), math.sin(link.alpha / 2), 0.0, 0.0)
        start, end, radius = link.shape
        shape = f'<geom type="capsule" fromto="{_vector(start + end)}" size="{radius}" group="1" rgba=".92 .92 .93 1"/>'
        inner = f"""
    <body name="link{index}" pos="{_vector(position)}" quat="{_vector(quaternion)}">
      <inertial pos="{_vector(link.com)}" mass="{link.mass_kg}" fullinertia="{_vector(link.inertia)}"/>
      <joint name="joint{index}" axis="0 0 1" range="{_vector(link.limit)}" damping="{JOINT_DAMPING}"
             actuatorfrcrange="{-link.torque_nm} {link.torque_nm}"/>
      {shape if drawn else ""}
      {inner}
    </body>"""
    return inner
