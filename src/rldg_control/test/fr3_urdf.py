"""Kinematics of an FR3 with its hand as a URDF, and a known pose of it."""

from __future__ import annotations

import numpy as np

JOINTS = (
    ("joint1", "revolute", "link0", "link1", "0 0 0.333", "0 0 0"),
    ("joint2", "revolute", "link1", "link2", "0 0 0", "-1.5707963267948966 0 0"),
    ("joint3", "revolute", "link2", "link3", "0 -0.316 0", "1.5707963267948966 0 0"),
    ("joint4", "revolute", "link3", "link4", "0.0825 0 0", "1.5707963267948966 0 0"),
    ("joint5", "revolute", "link4", "link5", "-0.0825 0.384 0", "-1.5707963267948966 0 0"),
    ("joint6", "revolute", "link5", "link6", "0 0 0", "1.5707963267948966 0 0"),
    ("joint7", "revolute", "link6", "link7", "0.088 0 0", "1.5707963267948966 0 0"),
    ("joint8", "fixed", "link7", "link8", "0 0 0.107", "0 0 0"),
    ("hand_joint", "fixed", "link8", "hand", "0 0 0", "0 0 -0.7853981633974483"),
    ("hand_tcp_joint", "fixed", "hand", "hand_tcp", "0 0 0.1034", "0 0 0"),
    ("finger_joint1", "prismatic", "hand", "leftfinger", "0 0 0.0584", "0 0 0"),
)

FR3_URDF = (
    '<robot name="fr3"><link name="base"/>'
    '<joint name="base_joint" type="fixed"><parent link="base"/><child link="fr3_link0"/></joint>'
    + "".join(
        f'<joint name="fr3_{name}" type="{kind}"><origin xyz="{xyz}" rpy="{rpy}"/>'
        f'<parent link="fr3_{parent}"/><child link="fr3_{child}"/><axis xyz="0 0 1"/></joint>'
        for name, kind, parent, child, xyz, rpy in JOINTS
    )
    + "</robot>"
)

READY_Q = [0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4]
READY_POSE = np.array([0.30689, 0.0, 0.48688, 1.0, 0.0, 0.0, 0.0])
"""O_T_EE of libfranka at that posture with the hand's end effector: the tool points down."""
