"""Scene `touch`: touch a disc on the table with a rod. The example of docs/how-to/add-a-scene.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from rldg_core.errors import UserError
from rldg_core.task import Task
from rldg_sim.mjcf import WristCamera, drawn_mjcf, fixed_fingers_mjcf, held_physics_mjcf
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.operators.insertion import InsertionOperator
from rldg_sim.panda import HAND_TCP_M
from rldg_sim.pose_math import relative_pose
from rldg_sim.randomisation import stream
from rldg_sim.scene import Scene
from rldg_sim.scene_model import GroundTruth, HeldObject

ROD_M = 0.04
"""Distance tcp -> tip of the rod."""
GRIP_M = 0.016
NEAR_M = 0.004
"""Success: the tip is this near to the middle of the disc ..."""
TOUCH_M = 0.0005
"""... and this near to the table."""


class TouchScene(Scene):
    """A disc at a random place: uniform +- disc_xy_m around the point below the target pose."""

    specialist: ClassVar[Mapping[str, Any]] = {"preset": "connector", "features": {"position_scales_m": [0.05, 0.01]}}

    kind: Literal["touch"] = "touch"
    disc_xy_m: Annotated[float, Field(ge=0, le=0.05)] = 0.02

    def model(self, task: Task, object_name: str) -> TouchModel:
        if object_name != "rod":
            raise UserError(f"object {object_name!r}: no such object, expected rod")
        return TouchModel(task, self)

    def operator(self, config: OperatorConfig, task: Task) -> InsertionOperator:
        return InsertionOperator(config, task, length_scale=3.0)


class TouchModel(HeldObject):
    """The rod in the gripper, the table, and the disc on it."""

    felt_bodies: tuple[str, ...] = ("rod",)
    grip_m = GRIP_M

    def __init__(self, task: Task, scene: TouchScene) -> None:
        super().__init__(task)
        self._scene = scene

    def physics_mjcf(self) -> str:
        table = '<geom type="box" pos=".5 0 -.02" size=".4 .4 .02"/><body name="disc"/>'
        rod = f"""
        <body name="rod" pos="0 0 {HAND_TCP_M}">
          <inertial pos="0 0 .02" mass=".03" diaginertia="4e-6 4e-6 4e-6"/>
          <geom type="capsule" fromto="0 0 0 0 0 {ROD_M - 0.003}" size=".003"/>
        </body>"""
        return held_physics_mjcf(self._task, table, rod)

    def drawn_mjcf(self) -> str:
        return drawn_mjcf(
            assets="",
            world='<body name="disc"><geom type="cylinder" size=".01 .0005" rgba=".8 .1 .1 1"/></body>',
            hand=f"""{fixed_fingers_mjcf(GRIP_M)}
        <body name="rod" pos="0 0 {HAND_TCP_M}">
          <geom type="capsule" fromto="0 0 -.01 0 0 {ROD_M - 0.003}" size=".003" rgba=".2 .2 .25 1"/>
        </body>""",
            camera=WristCamera(position=(0.09, 0.0, 0.05), aim=(0.0, 0.0, 0.16), fovy_deg=60.0),
        )

    def place(self, model: Any, seed: int) -> None:
        x, y = stream(seed, "disc").uniform(-self._scene.disc_xy_m, self._scene.disc_xy_m, 2)
        middle_x, middle_y = self._task.target_pose_base_tcp[:2]
        disc = model.body("disc")
        disc.pos[:] = [middle_x + x, middle_y + y, 0.0]
        disc.quat[:] = [0.0, 1.0, 0.0, 0.0]  # z of the goal points into the table

    def truth(self, model: Any, data: Any) -> GroundTruth:
        rod, disc, tcp = data.body("rod"), data.body("disc"), data.site("tcp")
        rotation = rod.xmat.reshape(3, 3)
        tip = rod.xpos + rotation[:, 2] * ROD_M
        on_disc = relative_pose(disc.xmat.reshape(3, 3), disc.xpos, rotation, tip)
        touches = bool(np.hypot(on_disc[0], on_disc[1]) < NEAR_M and on_disc[2] > -TOUCH_M)
        return GroundTruth(on_disc, relative_pose(tcp.xmat.reshape(3, 3), tcp.xpos, rotation, tip), success=touches)
