"""Plug and port of one connector as MJCF: contacts after rldg_sim.cavity, and what cameras see."""

from __future__ import annotations

import numpy as np

from rldg_sim import polygon
from rldg_sim.cavity import BOARD_HALF_M, EDGE_RADIUS_M, at_height, cavity_contacts, rgba, ring_mesh, surface
from rldg_sim.mjcf import numbers
from rldg_sim.scenes.connector.connectors import Connector

PLATE_HALF_M = (0.0155, 0.013)
"""Half of the D-type panel cut-out plate, 31 x 26 mm; the long side lies along y of the port."""
BOARD_HEIGHT_M = 0.13
RIM_M = 0.8e-3
GRIP_MARGIN_M = 1.5e-3
GRIP_HEIGHT_M = 0.024


def port_contacts(item: Connector) -> str:
    """Contact boxes of the port; z = 0 is the face of the plate, +z leads into the cavity."""
    return cavity_contacts(item.section, item.depth_m + 2e-3, item.clearance_m, item.chamfer_m)


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
