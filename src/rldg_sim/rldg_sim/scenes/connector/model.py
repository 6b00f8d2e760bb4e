"""The connector in the hand and its port on the table."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from rldg_core.frames import pose_at, rotation_of
from rldg_core.task import Task
from rldg_sim.looks import TABLE_MARKS_MJCF, drawn_in_detail
from rldg_sim.mjcf import (
    TABLE_MJCF,
    WristCamera,
    drawn_mjcf,
    fixed_fingers_mjcf,
    held_physics_mjcf,
    placed,
)
from rldg_sim.panda import HAND_TCP_M
from rldg_sim.pose_math import relative_pose, rotation_angle
from rldg_sim.randomisation import stream
from rldg_sim.realism.presets import PRESETS
from rldg_sim.scene_model import GroundTruth, HeldObject
from rldg_sim.scenes.connector import keys, looks, port
from rldg_sim.scenes.connector.connectors import MATING, connector

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
TENDON_M = 1.0
OUTWARDS_M_S = 1e-3
"""Faster than this, a plug is being withdrawn."""


def port_pose_base(task: Task, object_name: str = "") -> Array:
    """Pose (7,) of the port in base: its origin is the middle of the mouth, z leads into the port.

    The face of the housing is where the shoulder of a plug ends that is held SHOULDER_M below the tcp at the task's
    target. In the ideal cell every port's mouth lies in its middle.
    """
    target = np.array(task.target_pose_base_tcp)
    x, y, z = (0.0, 0.0, 0.0)
    if task.scene.realism != "ideal":
        x, y, z = MATING[task.object_or_default(object_name)].port_xyz_m
    offset = rotation_of(target).apply([x, y, SHOULDER_M - z])
    return pose_at(target, np.concatenate([offset, np.zeros(3)]))


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
        realism = PRESETS[task.scene.realism]
        self._hand, self._looks = realism.hand, realism.looks
        self._mating = None if task.scene.realism == "ideal" else MATING[object_name]
        self._shoulder_m = self._mating.grip_m if self._mating else SHOULDER_M
        self._port_base = port_pose_base(task, object_name)
        self._port_rotation = rotation_of(self._port_base).as_matrix()

    def physics_mjcf(self) -> str:
        """The port's boxes belong to the world body, whose contacts need no broad phase."""
        ideal = self._mating is None
        inside = port.port_contacts(self.item) + ("" if ideal else keys.port_key(self.item))
        goal = f"<frame {placed(self._port_base)}>{inside}</frame>"
        held = f"""
        <body name="plug" pos="0 0 {HAND_TCP_M + self._shoulder_m}">
          <inertial pos="0 0 -.005" mass="0.03" diaginertia="4e-6 4e-6 4e-6"/>
          {port.plug_contacts(self.item)}
          {"" if ideal else keys.plug_key(self.item)}
          {"" if ideal else f'<site name="tip" pos="0 0 {self.item.depth_m}"/>'}
        </body>"""
        if ideal:
            return held_physics_mjcf(self._task, goal, held)
        # Dry friction along the port's axis: that of a tendon from the tip to a point far below, whose length changes
        # with the depth and hardly with anything else. `resist` sets its size.
        goal += f'<frame {placed(self._port_base)}><site name="below" pos="0 0 {TENDON_M}"/></frame>'
        tendon = '<spatial name="mating" frictionloss="1e-6"><site site="tip"/><site site="below"/></spatial>'
        return held_physics_mjcf(self._task, goal, held, f"<tendon>{tendon}</tendon>")

    def drawn_mjcf(self) -> str:
        """Port, board, fingers and plug."""
        item, detailed = self.item, drawn_in_detail(self._looks)
        goal = looks.port_visuals(item) if detailed else port.port_visuals(item)
        plug = looks.plug_visuals(item, self._shoulder_m) if detailed else port.plug_visuals(item)
        return drawn_mjcf(
            assets=looks.meshes(item, self._shoulder_m) if detailed else port.meshes(item),
            world=f"<frame {placed(self._port_base)}>{goal}</frame>",
            hand=f"""{fixed_fingers_mjcf(self.grip_m)}
        <body name="plug" pos="0 0 {HAND_TCP_M + self._shoulder_m}">{plug}</body>""",
            camera=CAMERA,
            table=TABLE_MJCF + (TABLE_MARKS_MJCF if detailed else ""),
        )

    def place(self, model: Any, seed: int) -> None:
        """The plug in the hand."""
        x, y, yaw = grasp_offset(*self._grasp, seed)
        plug = model.body("plug")
        plug.pos[:] = [x, y, HAND_TCP_M + self._shoulder_m]
        plug.quat[:] = [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        if self._mating is not None:
            slide_x, slide_z, tilt = stream(seed, "grasp in the fingers").uniform(-1.0, 1.0, 3)
            plug.pos[:] += self._hand.slide_m * np.array([slide_x, 0.0, slide_z])
            half = self._hand.tilt_rad * tilt / 2
            mujoco.mju_mulQuat(plug.quat, np.array([np.cos(half), 0.0, np.sin(half), 0.0]), plug.quat.copy())
        if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "cable") >= 0:  # it is drawn only
            half = self._looks.cable_rad * stream(seed, "cable's way").uniform(-0.5, 0.5)
            model.body("cable").quat[:] = [np.cos(half), 0.0, 0.0, np.sin(half)]

    def restart(self, model: Any, data: Any, seed: int) -> None:
        """The cable pulls through the whole episode; nothing resists, whatever the last one ended with."""
        if self._mating is not None:
            self._tip = int(model.site("tip").id)
            model.tendon_frictionloss[0] = 0.0
            pull = stream(seed, "cable").uniform(-1.0, 1.0, 3)
            data.body("plug").xfrc_applied[:3] = self._hand.cable_n * pull

    def resist(self, model: Any, data: Any) -> None:
        """Friction of shell, contacts and latch by depth; nothing outside the port."""
        assert self._mating is not None
        x, y, z = ((data.site_xpos[self._tip] - self._port_base[:3]) @ self._port_rotation).tolist()
        depth = z / self.item.depth_m if max(abs(x), abs(y)) < SUCCESS_LATERAL_M else 0.0
        outwards = data.ten_velocity[0] > OUTWARDS_M_S
        # The solver leaves out a friction of zero, which saves time outside the port.
        model.tendon_frictionloss[0] = self._hand.mating * self._mating.force_n(depth, outwards)

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
