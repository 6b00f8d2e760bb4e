"""Boards with a convex cavity, and the edges of what is put into it, as MJCF.

Contact geometry, all primitives. What is inserted is one capsule along each vertical edge; the board is, for each
side of its cavity, a wall box, a 45-degree lead-in box and boxes of the board around the mouth. The cavity is convex,
so that a plug or peg touches it with its edges only: capsules against boxes are exact, and two contacts a pair keep
the solver fast. Boxes may overlap and overrun their side, since each lies outside the half-plane of its side and
therefore never reaches into the cavity. What cameras see are meshes and boxes without contact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rldg_sim import polygon
from rldg_sim.mjcf import numbers

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

EDGE_RADIUS_M = 0.3e-3
"""Rounding of the plug's edges and of its tip."""
BOARD_HALF_M = 0.1
WALL_M = 3e-3


def rgba(colour: Colour) -> str:
    """Colour as an attribute of MJCF."""
    return f"{colour[0]} {colour[1]} {colour[2]} 1"


def _box(x: tuple[float, float], y: tuple[float, float], z: tuple[float, float]) -> str:
    low, high = np.array([x[0], y[0], z[0]]), np.array([x[1], y[1], z[1]])
    return f'<geom type="box" pos="{numbers((low + high) / 2)}" size="{numbers((high - low) / 2)}"/>'


def _side_box(
    middle: Array, normal: Array, half: tuple[float, float, float], z: float, outwards: float, pitch_rad: float = 0.0
) -> str:
    """Box with axes (outward normal, side, z), pitched about the side; its centre lies `outwards` from `middle`."""
    along = np.array([-normal[1], normal[0], 0.0])
    out = np.array([normal[0], normal[1], 0.0])
    down = np.array([0.0, 0.0, 1.0])
    x_axis = math.cos(pitch_rad) * out + math.sin(pitch_rad) * down
    centre = np.array([middle[0], middle[1], z]) + outwards * out
    return (
        f'<geom type="box" pos="{numbers(centre)}" size="{numbers(np.array(half))}" '
        f'xyaxes="{numbers(np.concatenate([x_axis, along]))}"/>'
    )


def cavity_contacts(section: Array, bottom: float, clearance_m: float, chamfer: float) -> str:
    """Contact boxes of a board, `bottom` thick, with a cavity through it for a convex section and a lead-in."""
    cavity = polygon.offset(section, clearance_m)
    mouth = polygon.offset(cavity, chamfer)
    (x_low, y_low), (x_high, y_high) = mouth.min(axis=0), mouth.max(axis=0)
    board = BOARD_HALF_M
    parts = [
        _box((-board, x_low), (-board, board), (0, bottom)),
        _box((x_high, board), (-board, board), (0, bottom)),
        _box((x_low, x_high), (-board, y_low), (0, bottom)),
        _box((x_low, x_high), (y_high, board), (0, bottom)),
    ]
    for k, normal in enumerate(polygon.outward_normals(cavity)):
        a, b = cavity[k], cavity[(k + 1) % len(cavity)]
        middle, half_length = (a + b) / 2, float(np.linalg.norm(b - a)) / 2 + chamfer
        height = (bottom - chamfer) / 2
        parts.append(_side_box(middle, normal, (WALL_M / 2, half_length, height), chamfer + height, WALL_M / 2))
        # The ramp leads from (0, chamfer) at the cavity to (chamfer, 0) at the mouth; its box lies below it.
        depth = 1e-3
        ramp = (chamfer / math.sqrt(2), half_length + chamfer, depth)
        shift = depth / math.sqrt(2)
        parts.append(_side_box(middle, normal, ramp, chamfer / 2 + shift, chamfer / 2 + shift, -math.pi / 4))
        if np.abs(normal).max() < 0.999:
            half = (WALL_M / 2, half_length, bottom / 2)
            parts.append(_side_box(middle, normal, half, bottom / 2, chamfer + WALL_M / 2))
    return "\n".join(parts)


def ring_mesh(name: str, loops: list[Array]) -> str:
    """Surface through loops of equally many corners (n, 3); seen from inside and above."""
    count = len(loops[0])
    faces = []
    for level in range(len(loops) - 1):
        for k in range(count):
            a, b = level * count + k, level * count + (k + 1) % count
            c, d = a + count, b + count
            faces += [(a, c, b), (b, c, d)]
    vertices = np.concatenate(loops)
    return surface(name, vertices, faces)


def surface(name: str, vertices: Array, faces: list[tuple[int, int, int]]) -> str:
    """Mesh asset of an open surface."""
    attributes = 'inertia="shell" smoothnormal="false"'
    return f'<mesh name="{name}" {attributes} vertex="{numbers(vertices)}" face="{_ints(faces)}"/>'


def _ints(faces: list[tuple[int, int, int]]) -> str:
    return " ".join(str(i) for face in faces for i in face)


def at_height(corners: Array, z: float) -> Array:
    """Corners (n, 2) as points (n, 3)."""
    return np.column_stack([corners, np.full(len(corners), z)])
