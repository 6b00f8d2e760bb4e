"""The object and the bowl on the table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose, rotation_of
from rldg_core.task import Task
from rldg_sim import grasp
from rldg_sim.looks import drawn_in_detail
from rldg_sim.mjcf import TABLE_VIEW_MJCF, WristCamera, drawn_mjcf
from rldg_sim.pose_math import relative_pose
from rldg_sim.randomisation import stream
from rldg_sim.realism.presets import PRESETS
from rldg_sim.scene_model import GroundTruth
from rldg_sim.scenes.pick_and_place import produce, tabletop

Array = NDArray[np.float64]

CAMERA = WristCamera((0.09, 0.0, 0.05), (-0.015, 0.0, 0.2534), 80.0)
"""Field of view of a D405: sees the whole region of the object from the start pose, and the finger tips."""


def bowl_pose_base(task: Task) -> Array:
    """Pose (7,) of the goal in base: the middle of the bowl's rim, below the target pose; z leads into the bowl."""
    x, y = task.target_pose_base_tcp[:2]
    return pose((x, y, tabletop.BOWL_HEIGHT_M), (1.0, 0.0, 0.0, 0.0))


def object_place(task: Task, xy_m: float, yaw_rad: float, seed: int) -> tuple[float, float, float]:
    """Where the object of this seed lies: x, y, yaw in base, uniform +- around the point below the reset pose."""
    half = np.array([xy_m, xy_m, yaw_rad])
    x, y, yaw = stream(seed, "object").uniform(-half, half)
    middle_x, middle_y = task.reset.pose_base_tcp[:2]
    return middle_x + x, middle_y + y, yaw


def object_pose_base(place: tuple[float, float, float], radius_m: float) -> Array:
    """Pose (7,) in base of an object that lies on the table."""
    x, y, yaw = place
    down = Rotation.from_rotvec([0.0, 0.0, yaw]) * Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    return pose((x, y, radius_m), down.as_quat())


class PickAndPlaceModel(grasp.GraspedObject):
    """One object, the bowl and the table. Raises UserError on an unknown object."""

    def __init__(self, task: Task, object_name: str, object_xy_m: float, object_yaw_rad: float) -> None:
        super().__init__(task)
        self._region = object_xy_m, object_yaw_rad
        self._item = tabletop.tabletop_item(object_name)
        self._produce = None if task.scene.realism == "ideal" else produce.PRODUCE[object_name]
        self._detailed_name = object_name if drawn_in_detail(PRESETS[task.scene.realism].looks) else ""
        self._bowl = bowl_pose_base(task)
        self._bowl_rotation = rotation_of(self._bowl).as_matrix()

    def physics_mjcf(self) -> str:
        """Arm, fingers, object, bowl and table."""
        item = produce.contacts(self._produce) if self._produce else tabletop.item_contacts(self._item)
        return grasp.grasping_physics_mjcf(
            self._task,
            f"""
    {tabletop.table_contacts()}
    {self._at_bowl(tabletop.bowl_contacts())}
    <body name="object"><freejoint/>{item}</body>""",
        )

    def drawn_mjcf(self) -> str:
        """What cameras see."""
        world = self._at_bowl(tabletop.bowl_visuals())
        name = self._detailed_name
        item = f"""
    <body name="object"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
      {produce.visuals(name) if name else tabletop.item_visuals(self._item)}</body>"""
        table = (produce.table_visuals if name else tabletop.table_visuals)(self._item.table)
        assets = tabletop.bowl_mesh() + (produce.meshes(name) if name else "")
        return drawn_mjcf(assets, world, grasp.fingers_mjcf(drawn=True), CAMERA, table, TABLE_VIEW_MJCF, item)

    def _at_bowl(self, inside: str) -> str:
        x, y, _ = self._bowl[:3]
        return f'<frame pos="{x} {y} 0">{inside}</frame>'

    def place(self, model: Any, seed: int) -> None:
        """Do nothing: only the object moves between episodes (see restart)."""

    def restart(self, model: Any, data: Any, seed: int) -> None:
        """Open the gripper and put the object in its region."""
        grasp.open_fingers(data)
        place, real = object_place(self._task, *self._region, seed), self._produce
        lies = produce.lies(real, *place) if real else object_pose_base(place, self._item.radius_m)
        grasp.place_free(model, data, "object", lies, (real or self._item).mass_kg)

    def truth(self, model: Any, data: Any) -> GroundTruth:
        """Success: the object's middle is inside the bowl's wall and below its rim, and no finger holds it: the hand is
        commanded open and does not touch it. Failure: it is off the table, or where the arm cannot go.
        """
        body = int(model.body("object").id)
        position, rotation = data.xpos[body], data.xmat[body].reshape(3, 3)
        in_bowl = relative_pose(self._bowl_rotation, self._bowl[:3], rotation, position)
        inside = in_bowl[2] > 0 and np.hypot(in_bowl[0], in_bowl[1]) < tabletop.BOWL_RIM_M
        released = grasp.commanded_m(data) > 0 and not grasp.touch(model, data, body)
        tcp = int(model.site("tcp").id)
        in_hand = relative_pose(data.site_xmat[tcp].reshape(3, 3), data.site_xpos[tcp], rotation, position)
        return GroundTruth(in_bowl, in_hand, bool(inside and released), self.lost(position))
