"""The peg that stands on the table, and the board."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose
from rldg_core.task import Task
from rldg_sim import grasp
from rldg_sim.cavity import rgba
from rldg_sim.mjcf import TABLE_VIEW_MJCF, drawn_mjcf
from rldg_sim.pose_math import wxyz
from rldg_sim.randomisation import stream
from rldg_sim.scene_model import GroundTruth
from rldg_sim.scenes.fmb_insertion import model as fmb

Array = NDArray[np.float64]

PEG_MASS_KG = 0.06
FALLEN_RAD = 1.0
"""A peg that is tilted further counts as fallen: the gripper cannot raise it."""


def peg_pose_base(task: Task, xy_m: float, yaw_rad: float, seed: int) -> Array:
    """Where the peg of this seed stands, (7,) in base: uniform +- around the point below the reset pose, z down.

    The peg's frame lies where the tcp is in an ideal grasp.
    """
    half = np.array([xy_m, xy_m, yaw_rad])
    x, y, yaw = stream(seed, "object").uniform(-half, half)
    down = Rotation.from_rotvec([0.0, 0.0, yaw]) * Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    middle_x, middle_y = task.reset.pose_base_tcp[:2]
    return pose((middle_x + x, middle_y + y, fmb.TIP_M), down.as_quat())


class AssemblyModel(grasp.GraspedObject):
    """One peg and its board.

    peg, board (2,): range of middle and turn [m, rad]. Raises UserError on an unknown object.
    """

    def __init__(self, task: Task, object_name: str, peg: tuple[float, float], board: tuple[float, float]) -> None:
        super().__init__(task)
        self._peg = fmb.find_peg(object_name)
        self._peg_range, self._board_range = peg, board

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
        marks, on_board, table = fmb.drawn_on(self._task)
        peg = fmb.peg_box(self._peg, f'rgba="{rgba(self._peg.colour)}"')
        return drawn_mjcf(
            assets=assets + marks,
            world=f'<body name="board">{board}{on_board}</body>',
            table=table,
            hand=grasp.fingers_mjcf(drawn=True),
            camera=fmb.CAMERA,
            view=TABLE_VIEW_MJCF,
            free=f'<body name="peg"><freejoint/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>{peg}</body>',
        )

    def place(self, model: Any, seed: int) -> None:
        """The board on the table."""
        board = model.body("board")
        lies = fmb.board_pose_base(self._task, *self._board_range, seed)
        board.pos[:], board.quat[:] = lies[:3], wxyz(lies[3:])

    def restart(self, model: Any, data: Any, seed: int) -> None:
        """Open the gripper and put the peg, upright, in its region."""
        grasp.open_fingers(data)
        grasp.place_free(model, data, "peg", peg_pose_base(self._task, *self._peg_range, seed), PEG_MASS_KG)

    def truth(self, model: Any, data: Any) -> GroundTruth:
        """Success as FMB Insertion. Failure: the peg has fallen over, or is where the arm cannot go."""
        truth = fmb.insertion_truth(data)
        peg = data.body("peg")
        upright = -float(peg.xmat[8]) > np.cos(FALLEN_RAD)
        return replace(truth, failure=bool(self.lost(peg.xpos) or not upright))
