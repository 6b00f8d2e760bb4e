"""Scene kind `pick_and_place`: one free object on a table, a bowl, and a hand that grasps (paper, section IV)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose, rotation_of
from rldg_core.task import PickAndPlaceScene, Task
from rldg_sim import grasp, tabletop
from rldg_sim.pose_math import relative_pose
from rldg_sim.randomisation import start_pose, stream
from rldg_sim.scene import TABLE_VIEW_MJCF, Truth, WristCamera, drawn_mjcf

Array = NDArray[np.float64]

CAMERA = WristCamera((0.09, 0.0, 0.05), (-0.015, 0.0, 0.2534), 80.0)
"""As wide as a D405: sees the whole region of the object from the start pose, and the finger tips."""
OUT_OF_REACH_M = 0.06
"""An object whose middle leaves the safety box's ground plan by more than this is lost."""


def bowl_pose_base(task: Task) -> Array:
    """Pose (7,) of the goal in base: the middle of the bowl's rim, below the target pose; z leads into the bowl."""
    x, y = task.target_pose_base_tcp[:2]
    return pose((x, y, tabletop.BOWL_HEIGHT_M), (1.0, 0.0, 0.0, 0.0))


def object_pose_base(task: Task, scene: PickAndPlaceScene, radius_m: float, seed: int) -> Array:
    """Where the object of this seed lies, (7,) in base: uniform around the point below the reset pose."""
    half = np.array([scene.object_xy_m, scene.object_xy_m, scene.object_yaw_rad])
    x, y, yaw = stream(seed, "object").uniform(-half, half)
    middle_x, middle_y = task.reset.pose_base_tcp[:2]
    down = Rotation.from_rotvec([0.0, 0.0, yaw]) * Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    return pose((middle_x + x, middle_y + y, radius_m), down.as_quat())


class PickAndPlace:
    """See rldg_sim.scene.SceneKind. Raises UserError on an unknown object."""

    felt_bodies: tuple[str, ...] = grasp.FELT_BODIES

    def __init__(self, task: Task, object_name: str) -> None:
        assert isinstance(task.scene, PickAndPlaceScene)
        self._task, self._scene = task, task.scene
        self._item = tabletop.tabletop_item(object_name)
        self._bowl = bowl_pose_base(task)
        self._bowl_rotation = rotation_of(self._bowl).as_matrix()
        box = task.box
        self._low = box.reference_base[:2] + box.low[:2] - OUT_OF_REACH_M
        self._high = box.reference_base[:2] + box.high[:2] + OUT_OF_REACH_M

    def physics_mjcf(self) -> str:
        """Arm, fingers, object, bowl and table."""
        return grasp.grasping_physics_mjcf(
            self._task,
            f"""
    {tabletop.table_contacts()}
    {self._at_bowl(tabletop.bowl_contacts())}
    <body name="object"><freejoint/>{tabletop.item_contacts(self._item)}</body>""",
        )

    def drawn_mjcf(self) -> str:
        """What cameras see."""
        world = self._at_bowl(tabletop.bowl_visuals())
        item = f"""
    <body name="object"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
      {tabletop.item_visuals(self._item)}</body>"""
        table = tabletop.table_visuals(self._item.table)
        return drawn_mjcf(
            tabletop.bowl_mesh(), world, grasp.fingers_mjcf(drawn=True), CAMERA, table, TABLE_VIEW_MJCF, item
        )

    def _at_bowl(self, inside: str) -> str:
        x, y, _ = self._bowl[:3]
        return f'<frame pos="{x} {y} 0">{inside}</frame>'

    def start_pose(self, seed: int) -> Array:
        """Uniform around the task's reset pose."""
        return start_pose(self._task, seed)

    def place(self, model: Any, seed: int) -> None:
        """Nothing is fixed for an episode but the bowl, which never moves."""

    def restart(self, model: Any, data: Any, seed: int) -> None:
        """Open hand; the object lies in its region, and falls."""
        grasp.open_fingers(data)
        lies = object_pose_base(self._task, self._scene, self._item.radius_m, seed)
        grasp.place_free(model, data, "object", lies, self._item.mass_kg)

    def truth(self, model: Any, data: Any) -> Truth:
        """Success: the object's middle is inside the bowl's wall and below its rim, and no finger holds it: the hand is
        commanded open and does not touch it. Failure: it is off the table, or where the arm cannot go.
        """
        body = int(model.body("object").id)
        position, rotation = data.xpos[body], data.xmat[body].reshape(3, 3)
        in_bowl = relative_pose(self._bowl_rotation, self._bowl[:3], rotation, position)
        inside = in_bowl[2] > 0 and np.hypot(in_bowl[0], in_bowl[1]) < tabletop.BOWL_RIM_M
        released = grasp.commanded_m(data) > 0 and not grasp.touch(model, data, body)
        lost = position[2] < 0 or np.any(position[:2] < self._low) or np.any(position[:2] > self._high)
        tcp = int(model.site("tcp").id)
        in_hand = relative_pose(data.site_xmat[tcp].reshape(3, 3), data.site_xpos[tcp], rotation, position)
        return Truth(in_bowl, in_hand, bool(inside and released), bool(lost))

    def command_gripper(self, data: Any, width_m: float) -> None:
        """See SceneKind."""
        grasp.command(data, width_m)

    def gripper_width_m(self, data: Any) -> float:
        """See SceneKind."""
        return grasp.width_m(data)
