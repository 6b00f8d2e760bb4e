"""Check that the controller moves the measured frame. Without ROS.

A target is the measured pose composed with a delta. A driver may measure the end effector that is set
in the arm itself, while the controller moves the URDF frame `end_effector_frame`: where they differ, every target is
off by the difference, and the arm creeps steadily with up to stiffness x error clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from rldg_core.frames import Array, delta_between

ARM_JOINTS = 7

TOLERANCE_M, TOLERANCE_RAD = 0.003, 0.02
"""Allowed difference of measured pose and pose from the URDF: joint states and pose have different stamps."""


def frame_pose(urdf: str, frame: str, joint_positions: ArrayLike) -> Array:
    """Return the pose of a link in the root link of a URDF, (7,), at the arm's joint positions (7,) [rad].

    Raises ValueError when the text is not a URDF, has no such link, or is not moved by seven revolute joints.
    """
    try:
        robot = ElementTree.fromstring(urdf)
    except ElementTree.ParseError as error:
        raise ValueError(f"robot_description is not valid XML: {error}") from error
    joints = {
        child.get("link", ""): joint for joint in robot.iter("joint") if (child := joint.find("child")) is not None
    }
    chain: list[ElementTree.Element] = []
    link = frame
    while link in joints and len(chain) <= len(joints):
        chain.insert(0, joints[link])
        parent = joints[link].find("parent")
        link = "" if parent is None else parent.get("link", "")
    moving = [joint for joint in chain if joint.get("type") in ("revolute", "continuous", "prismatic")]
    if len(moving) != ARM_JOINTS or any(joint.get("type") == "prismatic" for joint in moving):
        raise ValueError(
            f"robot_description: {len(moving)} joints move frame {frame!r}, expected the {ARM_JOINTS} of the arm"
        )
    positions = np.asarray(joint_positions, dtype=np.float64)
    if positions.shape != (ARM_JOINTS,):
        raise ValueError(f"{positions.size} joint positions, expected {ARM_JOINTS}")
    angles = iter(positions)
    place, turn = np.zeros(3), Rotation.identity()
    for joint in chain:
        origin = joint.find("origin")
        place = place + turn.apply(_numbers(origin, "xyz", (0.0, 0.0, 0.0)))
        turn = turn * Rotation.from_euler("xyz", _numbers(origin, "rpy", (0.0, 0.0, 0.0)))
        if joint in moving:
            axis = _numbers(joint.find("axis"), "xyz", (1.0, 0.0, 0.0))
            turn = turn * Rotation.from_rotvec(next(angles) * axis / np.linalg.norm(axis))
    return np.concatenate([place, turn.as_quat()])


def frame_fault(measured_base: ArrayLike, controlled_base: ArrayLike, frame: str) -> str:
    """Compare the measured pose with that of the controlled frame; "" when they agree, else one line."""
    delta = delta_between(measured_base, controlled_base)
    apart_m, turned_rad = float(np.linalg.norm(delta[:3])), float(np.linalg.norm(delta[3:]))
    if apart_m <= TOLERANCE_M and turned_rad <= TOLERANCE_RAD:
        return ""
    return (
        f"the measured pose is not that of the controller's end_effector_frame {frame}: {apart_m * 1e3:.1f} mm and "
        f"{turned_rad:.3f} rad apart, expected at most {TOLERANCE_M * 1e3:.0f} mm and {TOLERANCE_RAD} rad; the arm "
        "would drift: set the end effector in Desk to this frame, or end_effector_frame to that of Desk"
    )


def _numbers(element: ElementTree.Element | None, name: str, default: Sequence[float]) -> Array:
    text = None if element is None else element.get(name)
    values = np.array(default if text is None else [float(word) for word in text.split()], dtype=np.float64)
    if values.shape != (3,) or not np.isfinite(values).all():
        raise ValueError(f"robot_description: {name}={text!r}, expected three numbers")
    return values
