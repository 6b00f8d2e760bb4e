"""The connector in the hand and its port on the table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.frames import pose_at, rotation_of
from rldg_core.task import Task
from rldg_sim.mjcf import WristCamera, drawn_mjcf, fixed_fingers_mjcf, held_physics_mjcf, placed
from rldg_sim.panda import HAND_TCP_M
from rldg_sim.pose_math import relative_pose, rotation_angle
from rldg_sim.randomisation import stream
from rldg_sim.scene_model import GroundTruth, HeldObject
from rldg_sim.scenes.connector import port
from rldg_sim.scenes.connector.connectors import connector

Array = NDArray[np.float64]

SHOULDER_M = 0.02
"""Distance tcp -> shoulder of the plug along the tool's z axis."""
CAMERA = WristCamera((0.09, 0.0, 0.05), (-0.004, 0.0, 0.154), 50.0)
"""Looks at a point just below the plug."""
SUCCESS_DEPTH_M = 0.75e-3
"""Success: the tip is within this of full insertion ..."""
SUCCESS_LATERAL_M = 1.0e-3
"""... its middle is within this of the port's axis ..."""
SUCCESS_TILT_RAD = 0.1
"""... and the plug is rotated against the port by less than this."""


def port_pose_base(task: Task) -> Array:
    """Pose (7,) of the port in base: its origin is the middle of the mouth, z leads into the port."""
    target = np.array(task.target_pose_base_tcp)
    return pose_at(target, np.concatenate([rotation_of(target).apply([0.0, 0.0, SHOULDER_M]), np.zeros(3)]))


def grasp_offset(xy_m: float, yaw_rad: float, seed: int) -> Array:
    """Offset (x, y, yaw) of the plug in the hand, uniform +-, tcp axes [m, m, rad]."""
    half = np.array([xy_m, xy_m, yaw_rad])
    return np.asarray(stream(seed, "grasp").uniform(-half, half), dtype=np.float64)


class ConnectorModel(HeldObject):
    """One connector and its port. Raises UserError on an unknown object."""

    felt_bodies: tuple[str, ...] = ("plug",)

    def __init__(self, task: Task, object_name: str, grasp_xy_m: float, grasp_yaw_rad: float) -> None:
        super().__init__(task)
        self._grasp = grasp_xy_m, grasp_yaw_rad
        self.item = connector(object_name)
        self.grip_m = port.grip_width_m(self.item)
        self._port_base = port_pose_base(task)
        self._port_rotation = rotation_of(self._port_base).as_matrix()

    def physics_mjcf(self) -> str:
        """The port's boxes belong to the world body, whose contacts need no broad phase."""
        goal = f"<frame {placed(self._port_base)}>{port.port_contacts(self.item)}</frame>"
        held = f"""
        <body name="plug" pos="0 0 {HAND_TCP_M + SHOULDER_M}">
          <inertial pos="0 0 -.005" mass="0.03" diaginertia="4e-6 4e-6 4e-6"/>
          {port.plug_contacts(self.item)}
        </body>"""
        return held_physics_mjcf(self._task, goal, held)

    def drawn_mjcf(self) -> str:
        """Port, board, fingers and plug."""
        return drawn_mjcf(
            assets=port.meshes(self.item),
            world=f"<frame {placed(self._port_base)}>{port.port_visuals(self.item)}</frame>",
            hand=f"""{fixed_fingers_mjcf(self.grip_m)}
        <body name="plug" pos="0 0 {HAND_TCP_M + SHOULDER_M}">{port.plug_visuals(self.item)}</body>""",
            camera=CAMERA,
        )

    def place(self, model: Any, seed: int) -> None:
        """The plug in the hand."""
        x, y, yaw = grasp_offset(*self._grasp, seed)
        plug = model.body("plug")
        plug.pos[:] = [x, y, HAND_TCP_M + SHOULDER_M]
        plug.quat[:] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]

    def truth(self, model: Any, data: Any) -> GroundTruth:
        """Reference of the object: the plug's tip. Goal: the port, z leads into it; so z < 0 above the plate."""
        plug, tcp = data.body("plug"), data.site("tcp")
        rotation = plug.xmat.reshape(3, 3)
        tip = plug.xpos + rotation[:, 2] * self.item.depth_m
        in_port = relative_pose(self._port_rotation, self._port_base[:3], rotation, tip)
        success = (
            in_port[2] >= self.item.depth_m - SUCCESS_DEPTH_M
            and np.hypot(in_port[0], in_port[1]) <= SUCCESS_LATERAL_M
            and rotation_angle(in_port) <= SUCCESS_TILT_RAD
        )
        in_hand = relative_pose(tcp.xmat.reshape(3, 3), tcp.xpos, rotation, tip)
        return GroundTruth(in_port, in_hand, bool(success))
