"""Plug and port of one connector as MJCF.

Contact geometry, all primitives. The plug is one capsule along each vertical edge of its shell; the port is,
for each side of its cavity, a wall box, a 45-degree lead-in box and boxes of the plate around the mouth. The
cavity is convex, so a plug touches it with its edges only: capsules against boxes are exact, and two contacts
a pair keep the solver fast. Boxes may overlap and overrun their side, since each lies outside the half-plane
of its side and therefore never reaches into the cavity. What is drawn are meshes and boxes without contact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rldg_sim import polygon
from rldg_sim.connectors import Colour, Connector
from rldg_sim.scene import numbers

Array = NDArray[np.float64]

EDGE_RADIUS_M = 0.3e-3
"""Rounding of the plug's edges and of its tip."""
PLATE_HALF_M = (0.0155, 0.013)
"""Half of the D-type panel cut-out plate, 31 x 26 mm; the long side lies along y of the port."""
BOARD_HALF_M = 0.1
BOARD_HEIGHT_M = 0.13
RIM_M = 0.8e-3
WALL_M = 3e-3
GRIP_MARGIN_M = 1.5e-3
GRIP_HEIGHT_M = 0.024


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


def port_contacts(item: Connector) -> str:
    """Contact boxes of the port; z = 0 is the face of the plate, +z leads into the cavity."""
    return cavity_contacts(item.section, item.depth_m + 2e-3, item.clearance_m, item.chamfer_m)


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


def meshes(item: Connector) -> str:
    """Mesh assets that draw the plug, the port and the board around it."""
    cavity = polygon.offset(item.section, item.clearance_m)
    mouth = polygon.offset(cavity, item.chamfer_m)
    rim = polygon.offset(mouth, RIM_M)
    plate = polygon.rectangle(2 * PLATE_HALF_M[0], 2 * PLATE_HALF_M[1])
    board = polygon.rectangle(2 * BOARD_HALF_M, 2 * BOARD_HALF_M)
    angles = polygon.corner_angles(rim, plate, board)
    floor_z = item.depth_m + 1e-3
    floor_faces = [(0, k + 1, k) for k in range(1, len(cavity) - 1)]
    shell = np.concatenate(
        [at_height(item.section, 0.0), at_height(polygon.offset(item.section, -EDGE_RADIUS_M), item.depth_m)]
    )
    plate_loop = at_height(polygon.along_rays(plate, angles), 0.0)
    board_loop = polygon.along_rays(board, angles)
    return "\n".join(
        [
            f'<mesh name="plug" vertex="{numbers(shell)}"/>',
            ring_mesh("board", [at_height(board_loop, BOARD_HEIGHT_M), at_height(board_loop, 0.0), plate_loop]),
            ring_mesh("plate", [plate_loop, at_height(polygon.along_rays(rim, angles), 0.0)]),
            ring_mesh("rim", [at_height(rim, 0.0), at_height(mouth, 0.0), at_height(cavity, item.chamfer_m)]),
            ring_mesh("cavity", [at_height(cavity, item.chamfer_m), at_height(cavity, floor_z)]),
            surface("floor", at_height(cavity, floor_z), floor_faces),
        ]
    )


def port_visuals(item: Connector) -> str:
    """What is drawn of the port: board, D-type plate with its two screws, rim, cavity."""
    dark = tuple(0.25 * c for c in item.port_colour)
    colours = {
        "board": (0.42, 0.45, 0.48),
        "plate": (0.13, 0.13, 0.14),
        "rim": item.port_colour,
        "cavity": (dark[0], dark[1], dark[2]),
        "floor": (0.02, 0.02, 0.02),
    }
    surfaces = [
        f'<geom name="{name}" type="mesh" mesh="{name}" rgba="{rgba(colour)}"/>' for name, colour in colours.items()
    ]
    screws = [
        f'<geom type="cylinder" pos="{sx * 0.0095} {sy * 0.012} 0" size=".0016 .0004" rgba=".7 .7 .72 1"/>'
        for sx, sy in ((-1, 1), (1, -1))
    ]
    return "\n".join([*surfaces, *screws])


def plug_contacts(item: Connector) -> str:
    """Contact geoms of the plug; z = 0 is its shoulder, the tip is at z = depth_m."""
    tip = item.depth_m - EDGE_RADIUS_M
    edges = [
        f'<geom type="capsule" fromto="{x:.9g} {y:.9g} 0 {x:.9g} {y:.9g} {tip:.9g}" size="{EDGE_RADIUS_M}"/>'
        for x, y in polygon.offset(item.section, -EDGE_RADIUS_M)
    ]
    # Four small spheres are the shoulder that stops on the plate.
    grip, radius = item.extent_m + GRIP_MARGIN_M, 0.5e-3
    stops = [
        f'<geom type="sphere" pos="{sx * grip[0]:.9g} {sy * grip[1]:.9g} {-radius}" size="{radius}"/>'
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
    return "\n".join([*edges, *stops])


def plug_visuals(item: Connector) -> str:
    """What is drawn of the plug: its shell and the overmould between the fingers."""
    grip = item.extent_m + GRIP_MARGIN_M + 0.5e-3
    half = np.array([grip[0], grip[1], GRIP_HEIGHT_M / 2])
    return f"""
      <geom name="shell" type="mesh" mesh="plug" rgba="{rgba(item.plug_colour)}"/>
      <geom name="grip" type="box" pos="0 0 {-GRIP_HEIGHT_M / 2}" size="{numbers(half)}"
            rgba="{rgba(item.grip_colour)}"/>"""


def grip_width_m(item: Connector) -> float:
    """Distance of the fingers that hold the plug."""
    return float(2 * (item.extent_m[1] + GRIP_MARGIN_M + 0.5e-3))
