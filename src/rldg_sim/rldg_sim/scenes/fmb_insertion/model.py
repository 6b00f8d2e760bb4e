"""The peg in the hand and the board with its hole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.errors import UserError
from rldg_core.frames import rotation_of
from rldg_core.task import Task
from rldg_sim import polygon
from rldg_sim.cavity import (
    BOARD_HALF_M,
    EDGE_RADIUS_M,
    Colour,
    at_height,
    cavity_contacts,
    rgba,
    ring_mesh,
    surface,
)
from rldg_sim.looks import (
    FIXTURE_MARKS_MJCF,
    TABLE_MARKS_MJCF,
    drawn_in_detail,
    marked_fixture_and_table_mjcf,
)
from rldg_sim.mjcf import (
    TABLE_MJCF,
    TABLE_VIEW_MJCF,
    WristCamera,
    drawn_mjcf,
    fixed_fingers_mjcf,
    held_physics_mjcf,
    numbers,
)
from rldg_sim.panda import HAND_TCP_M
from rldg_sim.pose_math import relative_pose, rotation_angle, wxyz
from rldg_sim.randomisation import stream
from rldg_sim.realism.presets import PRESETS
from rldg_sim.scene_model import GroundTruth, HeldObject

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Peg:
    """section: (n, 2) cross-section [m], its x along the finger pads, its y between them; colour."""

    section: Array
    colour: Colour


PEGS: dict[str, Peg] = {"rectangle": Peg(polygon.rectangle(28e-3, 40e-3), (0.78, 0.18, 0.12))}
"""One of the benchmark's shapes; its size is our estimate, to be replaced by that of its drawings. The other shapes are
missing: some of them (3-prong, star, arch, double square) are not convex, which `cavity` needs.
"""

TIP_M = 0.045
"""Distance tcp -> tip of the peg along the tool."""
TAIL_M = 0.015
"""How far the peg reaches behind the tcp."""
BOARD_HEIGHT_M = 0.03
"""The hole leads through the board, so this is the depth of full insertion; the table stops the peg."""
CLEARANCE_M = 0.75e-3
"""Gap per side: 1.5 mm tolerance."""
CHAMFER_M = 1.0e-3
SUCCESS_DEPTH_M = 2e-3
"""Success: the tip is within this of full insertion ..."""
SUCCESS_LATERAL_M = 2e-3
"""... its middle is within this of the hole's axis ..."""
SUCCESS_TILT_RAD = 0.1
"""... and the peg is rotated against the hole by less than this."""
CAMERA = WristCamera((0.09, 0.0, 0.05), (0.01, 0.0, 0.23), 80.0)
"""Field of view of a D405; sees the tip, and from the start pose every possible position of the hole."""
BORDER_M = 6e-3
"""Coloured ring around the mouth, which is still seen beside the peg when the peg hides the hole."""
BOARD_COLOUR: Colour = (0.58, 0.59, 0.57)
BORDER_COLOUR: Colour = (0.20, 0.32, 0.52)
HOLE_COLOUR: Colour = (0.10, 0.11, 0.13)


def find_peg(name: str) -> Peg:
    """Return the peg of this name. Raises UserError naming those that exist."""
    if name not in PEGS:
        raise UserError(f"object {name!r}: no such peg, expected one of {', '.join(PEGS)}")
    return PEGS[name]


def board_pose_base(task: Task, xy_m: float, yaw_rad: float, seed: int) -> Array:
    """Pose (7,) of the hole in base: its origin is the middle of the mouth, z leads into it.

    xy_m, yaw_rad: the board's middle and turn are uniform +- around the target pose.
    """
    half = np.array([xy_m, xy_m, yaw_rad])
    x, y, yaw = stream(seed, "board").uniform(-half, half)
    turned = rotation_of(task.target_pose_base_tcp) * Rotation.from_rotvec([0.0, 0.0, yaw])
    middle = task.target_pose_base_tcp
    return np.concatenate([[middle[0] + x, middle[1] + y, BOARD_HEIGHT_M], turned.as_quat()])


def grasp_offset(x_m: float, z_m: float, pitch_rad: float, seed: int) -> Array:
    """Offset (x, z, pitch) of the peg in the hand, uniform +-, tcp axes [m, m, rad]."""
    half = np.array([x_m, z_m, pitch_rad])
    return np.asarray(stream(seed, "grasp").uniform(-half, half), dtype=np.float64)


def board_contacts(peg: Peg) -> str:
    """The board with its hole, in the frame of the hole."""
    return cavity_contacts(peg.section, BOARD_HEIGHT_M, CLEARANCE_M, CHAMFER_M)


def edge_contacts(peg: Peg, tail_m: float = 0.0, attributes: str = "") -> str:
    """One capsule along each edge of the peg, exact in a convex hole (see rldg_sim.cavity); z = 0 at the tcp."""
    return "\n".join(
        f'<geom type="capsule" fromto="{x:.9g} {y:.9g} {-tail_m} {x:.9g} {y:.9g} {TIP_M - EDGE_RADIUS_M}" '
        f'size="{EDGE_RADIUS_M}" {attributes}/>'
        for x, y in polygon.offset(peg.section, -EDGE_RADIUS_M)
    )


def peg_box(peg: Peg, attributes: str) -> str:
    """The whole peg as a box; z = 0 at the tcp."""
    half = np.append(np.abs(peg.section).max(axis=0), (TIP_M + TAIL_M) / 2)
    return f'<geom name="peg" type="box" pos="0 0 {(TIP_M - TAIL_M) / 2}" size="{numbers(half)}" {attributes}/>'


def board_drawn(peg: Peg) -> tuple[str, str]:
    """Mesh assets of the board, and its geoms in the frame of the hole."""
    cavity = polygon.offset(peg.section, CLEARANCE_M)
    mouth = polygon.offset(cavity, CHAMFER_M)
    border = polygon.offset(mouth, BORDER_M)
    outline = polygon.rectangle(2 * BOARD_HALF_M, 2 * BOARD_HALF_M)
    angles = polygon.corner_angles(border, outline)
    edge, inner = polygon.along_rays(outline, angles), polygon.along_rays(border, angles)
    floor_z = BOARD_HEIGHT_M - 1e-3
    assets = [
        ring_mesh("board", [at_height(edge, BOARD_HEIGHT_M), at_height(edge, 0.0), at_height(inner, 0.0)]),
        ring_mesh("rim", [at_height(border, 0.0), at_height(mouth, 0.0), at_height(cavity, CHAMFER_M)]),
        ring_mesh("hole", [at_height(cavity, CHAMFER_M), at_height(cavity, floor_z)]),
        surface("floor", at_height(cavity, floor_z), [(0, k + 1, k) for k in range(1, len(cavity) - 1)]),
    ]
    dark = rgba(HOLE_COLOUR)
    colours = {"board": rgba(BOARD_COLOUR), "rim": rgba(BORDER_COLOUR), "hole": dark, "floor": dark}
    parts = [f'<geom name="{k}" type="mesh" mesh="{k}" rgba="{colour}"/>' for k, colour in colours.items()]
    return "".join(assets), "".join(parts)


def drawn_on(task: Task) -> tuple[str, str, str]:
    """Marks where the task's preset draws details: mesh assets, geoms in the frame of the hole, and the table."""
    if not drawn_in_detail(PRESETS[task.scene.realism].looks):
        return "", "", TABLE_MJCF
    return marked_fixture_and_table_mjcf(), FIXTURE_MARKS_MJCF, TABLE_MJCF + TABLE_MARKS_MJCF


def insertion_truth(data: Any) -> GroundTruth:
    """Reference of the object: the middle of the peg's tip. Goal: the hole; so z < 0 above the board."""
    peg, board, tcp = data.body("peg"), data.body("board"), data.site("tcp")
    rotation = peg.xmat.reshape(3, 3)
    tip = peg.xpos + rotation[:, 2] * TIP_M
    in_hole = relative_pose(board.xmat.reshape(3, 3), board.xpos, rotation, tip)
    success = (
        in_hole[2] >= BOARD_HEIGHT_M - SUCCESS_DEPTH_M
        and np.hypot(in_hole[0], in_hole[1]) <= SUCCESS_LATERAL_M
        and rotation_angle(in_hole) <= SUCCESS_TILT_RAD
    )
    in_hand = relative_pose(tcp.xmat.reshape(3, 3), tcp.xpos, rotation, tip)
    return GroundTruth(in_hole, in_hand, bool(success))


class FmbInsertionModel(HeldObject):
    """One peg and its board.

    board (2,): range of the board's middle and turn [m, rad]; grasp (3,): of `grasp_offset`. Raises UserError on an
    unknown object.
    """

    felt_bodies: tuple[str, ...] = ("peg",)

    def __init__(
        self, task: Task, object_name: str, board: tuple[float, float], grasp: tuple[float, float, float]
    ) -> None:
        super().__init__(task)
        self._board, self._grasp = board, grasp
        self._peg = find_peg(object_name)
        self.grip_m = float(2 * np.abs(self._peg.section[:, 1]).max())

    def physics_mjcf(self) -> str:
        """Board, table and the peg in the hand."""
        goal = f"""
    <geom name="table" type="box" pos=".5 0 -.02" size=".4 .4 .02"/>
    <body name="board">{board_contacts(self._peg)}</body>"""
        held = f"""
        <body name="peg" pos="0 0 {HAND_TCP_M}">
          <inertial pos="0 0 .015" mass="0.06" diaginertia="3e-5 3e-5 3e-5"/>
          {edge_contacts(self._peg)}
        </body>"""
        return held_physics_mjcf(self._task, goal, held)

    def drawn_mjcf(self) -> str:
        """Board, fingers and peg."""
        assets, board = board_drawn(self._peg)
        marks, on_board, table = drawn_on(self._task)
        peg = peg_box(self._peg, f'rgba="{rgba(self._peg.colour)}"')
        return drawn_mjcf(
            assets=assets + marks,
            world=f'<body name="board">{board}{on_board}</body>',
            table=table,
            hand=f'{fixed_fingers_mjcf(self.grip_m)}<body name="peg" pos="0 0 {HAND_TCP_M}">{peg}</body>',
            camera=CAMERA,
            view=TABLE_VIEW_MJCF,
        )

    def place(self, model: Any, seed: int) -> None:
        """The board on the table, the peg in the hand."""
        board, peg = model.body("board"), model.body("peg")
        pose = board_pose_base(self._task, *self._board, seed)
        board.pos[:], board.quat[:] = pose[:3], wxyz(pose[3:])
        x, z, pitch = grasp_offset(*self._grasp, seed)
        peg.pos[:] = [x, 0.0, HAND_TCP_M + z]
        peg.quat[:] = [np.cos(pitch / 2), 0.0, np.sin(pitch / 2), 0.0]

    def truth(self, model: Any, data: Any) -> GroundTruth:
        """See insertion_truth."""
        return insertion_truth(data)
