"""Scene kind `assembly`: a free peg that stands on the table, and the board of FMB Insertion (paper, section IV).

FMB Single-Object Assembly: grasp the peg about 20 cm from the board, carry it there, insert it. How the peg sits in
the hand is what the grasp made of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose
from rldg_core.task import AssemblyScene, Task
from rldg_sim import fmb_insertion as fmb
from rldg_sim import grasp
from rldg_sim.pick_and_place import OUT_OF_REACH_M
from rldg_sim.port import rgba
from rldg_sim.pose_math import wxyz
from rldg_sim.randomisation import start_pose, stream
from rldg_sim.scene import TABLE_VIEW_MJCF, Truth, drawn_mjcf

Array = NDArray[np.float64]

PEG_MASS_KG = 0.06
FALLEN_RAD = 1.0
"""A peg that leans further lies on the table: this hand cannot raise it again."""


def peg_pose_base(task: Task, scene: AssemblyScene, seed: int) -> Array:
    """Where the peg of this seed stands, (7,) in base: uniform around the point below the reset pose, z down.

    The peg's frame lies where the tcp is in an ideal grasp.
    """
    half = np.array([scene.peg_xy_m, scene.peg_xy_m, scene.peg_yaw_rad])
    x, y, yaw = stream(seed, "object").uniform(-half, half)
    down = Rotation.from_rotvec([0.0, 0.0, yaw]) * Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    middle_x, middle_y = task.reset.pose_base_tcp[:2]
    return pose((middle_x + x, middle_y + y, fmb.TIP_M), down.as_quat())


class Assembly:
    """See rldg_sim.scene.SceneKind. Raises UserError on an unknown object."""

    felt_bodies: tuple[str, ...] = grasp.FELT_BODIES

    def __init__(self, task: Task, object_name: str) -> None:
        assert isinstance(task.scene, AssemblyScene)
        self._task, self._scene = task, task.scene
        self._peg = fmb.find_peg(object_name)
        box = task.box
        self._low = box.reference_base[:2] + box.low[:2] - OUT_OF_REACH_M
        self._high = box.reference_base[:2] + box.high[:2] + OUT_OF_REACH_M

    def physics_mjcf(self) -> str:
        """Fingers and table touch the peg's faces, the board its edges: contype 2 and 4 tell them apart."""
        edges = fmb.edge_contacts(self._peg, fmb.TAIL_M, 'contype="4" conaffinity="0" friction="0.25 0.002 0.0001"')
        faces = fmb.peg_box(self._peg, 'contype="2" conaffinity="0"')
        return grasp.grasping_physics_mjcf(
            self._task,
            f"""
    <geom name="table" type="box" pos=".5 0 -.02" size=".4 .4 .02" conaffinity="5"/>
    <body name="board" childclass="board">{fmb.board_contacts(self._peg)}</body>
    <body name="peg"><freejoint/>
      <inertial pos="0 0 .015" mass="{PEG_MASS_KG}" diaginertia="3e-5 3e-5 3e-5"/>
      {edges}
      {faces}
    </body>""",
        )

    def drawn_mjcf(self) -> str:
        """Board, fingers and peg."""
        assets, board = fmb.board_drawn(self._peg)
        peg = fmb.peg_box(self._peg, f'rgba="{rgba(self._peg.colour)}"')
        return drawn_mjcf(
            assets=assets,
            world=f'<body name="board">{board}</body>',
            hand=grasp.fingers_mjcf(drawn=True),
            camera=fmb.CAMERA,
            view=TABLE_VIEW_MJCF,
            free=f'<body name="peg"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>{peg}</body>',
        )

    def start_pose(self, seed: int) -> Array:
        """Uniform around the task's reset pose."""
        return start_pose(self._task, seed)

    def place(self, model: Any, seed: int) -> None:
        """The board on the table."""
        board = model.body("board")
        lies = fmb.board_pose_base(self._task, self._scene, seed)
        board.pos[:], board.quat[:] = lies[:3], wxyz(lies[3:])

    def restart(self, model: Any, data: Any, seed: int) -> None:
        """Open hand; the peg stands in its region, and could fall."""
        grasp.open_fingers(data)
        grasp.place_free(model, data, "peg", peg_pose_base(self._task, self._scene, seed), PEG_MASS_KG)

    def truth(self, model: Any, data: Any) -> Truth:
        """Success as FMB Insertion. Failure: the peg has fallen over, or is where the arm cannot go."""
        truth = fmb.insertion_truth(data)
        peg = data.body("peg")
        upright = -float(peg.xmat[8]) > np.cos(FALLEN_RAD)
        lost = peg.xpos[2] < 0 or np.any(peg.xpos[:2] < self._low) or np.any(peg.xpos[:2] > self._high)
        return replace(truth, failure=bool(lost or not upright))

    def command_gripper(self, data: Any, width_m: float) -> None:
        """See SceneKind."""
        grasp.command(data, width_m)

    def gripper_width_m(self, data: Any) -> float:
        """See SceneKind."""
        return grasp.width_m(data)
