"""What connectors look like where `looks.detail` is on: overmould, cable, label, port surround and screws.

Sizes in mm in the plug's frame, whose z = 0 is the shoulder: the overmould rises against z. Its width along y between
the fingers is that of the plain grip, which the fingers' distance follows. Everything is drawn only.

From drawings: hole spacing and screws of D-sub (IEC 60807-2: 24.99 mm, UNC 4-40), the D-type housing 26 x 31 mm with
two screws at 19 x 24 mm (Neutrik DLX), the body of an RJ45 plug and its latch (IEC 60603-7), the outer diameter of a
Neutrik NC3MXX. Overmoulds of USB-A, Type-C, HDMI and DisplayPort may have any shape within the maximum of their
specifications: these, and all colours, are our choice; every colour is sold.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_sim import polygon
from rldg_sim.cavity import Colour, at_height, rgba, ring_mesh, surface
from rldg_sim.looks import FIXTURE_MARKS_MJCF, marked_fixture_and_table_mjcf
from rldg_sim.mjcf import numbers
from rldg_sim.scenes.connector import port
from rldg_sim.scenes.connector.connectors import MM, Connector
from rldg_sim.solids import Solid, joined, loft

Array = NDArray[np.float64]

ABOVE_TCP_M = 0.009
"""How far an overmould reaches above the tcp."""
SURROUND_M = 0.2e-3
"""Height of the port's surround above the housing's face."""
CABLE_PATH_MM = ((0.0, 0.0), (0.0, -7.0), (-5.0, -13.0), (-15.0, -16.5), (-60.0, -13.0), (-130.0, 20.0))
"""x and z of a cable from the end of the grip: below the palm, away from the wrist camera."""
LABEL_M = 0.15e-3
LABEL_HALF_M = (0.28, 2.2e-3)
"""Half sizes of a label: across, relative to the grip's width, and along the tool [m]."""
SCREW_M = 0.8e-3
DISC_CORNERS, TUBE_CORNERS = 8, 6
"""Few, since cylinders of MuJoCo take most of the time of an image."""


@dataclass(frozen=True)
class Ring:
    """Rounded rectangle across an overmould.

    part: 0 at the shoulder, 1 at its end; width: along y, relative to the grip between the fingers; thickness_mm:
    along x; radius_mm: of its corners.
    """

    part: float
    width: float
    thickness_mm: float
    radius_mm: float


@dataclass(frozen=True)
class Piece:
    """Convex piece of an overmould between two rings; alpha: 1 is opaque."""

    low: Ring
    high: Ring
    colour: Colour
    alpha: float = 1.0


@dataclass(frozen=True)
class Detail:
    """Box in the plug's or the port's frame [mm]."""

    position_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]
    colour: Colour


@dataclass(frozen=True)
class Look:
    """Looks of one connector.

    label: height of its middle as a part of the overmould, and colour; surround_mm: size along x and y and radius of
    the corners; screws_mm: positions on the surround.
    """

    overmould: tuple[Piece, ...]
    details: tuple[Detail, ...]
    cable_mm: float
    cable_colour: Colour
    label: tuple[float, Colour]
    surround_mm: tuple[float, float, float]
    surround_colour: Colour
    screws_mm: tuple[tuple[float, float], ...]
    screw_radius_mm: float
    port_details: tuple[Detail, ...] = ()


_SCREW: Colour = (0.62, 0.62, 0.64)
_BLACK: Colour = (0.10, 0.10, 0.11)
_WHITE: Colour = (0.88, 0.88, 0.86)
_PAPER: Colour = (0.93, 0.92, 0.86)
_STEEL: Colour = (0.74, 0.75, 0.77)
_BRASS: Colour = (0.80, 0.66, 0.32)
_BLUE: Colour = (0.10, 0.17, 0.46)
_YELLOW: Colour = (0.85, 0.72, 0.12)
_CLEAR: Colour = (0.82, 0.86, 0.88)
_ALMOND: Colour = (0.84, 0.81, 0.70)
_KEYSTONE: Colour = (0.70, 0.67, 0.56)
_ORANGE: Colour = (0.80, 0.30, 0.07)
_GREEN: Colour = (0.10, 0.40, 0.27)
_NICKEL: Colour = (0.66, 0.66, 0.62)
_RED: Colour = (0.55, 0.06, 0.08)


def _ridges(parts_mm: tuple[float, ...], x_mm: float, half_y_mm: float, colour: Colour) -> tuple[Detail, ...]:
    return tuple(Detail((x_mm, 0.0, -z), (0.3, half_y_mm, 0.5), colour) for z in parts_mm)


LOOKS: dict[str, Look] = {
    # A flat block with a collar, ridges for the thumb and the trident's white print.
    "usb_a": Look(
        overmould=(
            Piece(Ring(0.0, 1.0, 8.5, 1.0), Ring(0.85, 1.0, 8.5, 1.0), _BLACK),
            Piece(Ring(0.85, 0.8, 7.5, 1.0), Ring(1.0, 0.5, 5.0, 1.5), _BLACK),
        ),
        details=_ridges((3.0, 5.0, 7.0), 4.3, 6.0, (0.22, 0.22, 0.24)),
        cable_mm=4.5,
        cable_colour=_BLACK,
        label=(0.62, _WHITE),
        surround_mm=(26.0, 31.0, 2.5),
        surround_colour=(0.13, 0.13, 0.14),
        screws_mm=((-9.5, 12.0), (9.5, -12.0)),
        screw_radius_mm=2.0,
    ),
    # A clear body with its latch and a moulded boot; the port is a keystone in an almond wall plate.
    "ethernet": Look(
        overmould=(
            Piece(Ring(0.0, 0.76, 8.0, 0.4), Ring(0.34, 0.76, 8.0, 0.4), _CLEAR, 0.55),
            Piece(Ring(0.34, 0.85, 9.0, 1.5), Ring(0.45, 1.0, 11.0, 2.5), _YELLOW),
            Piece(Ring(0.45, 1.0, 11.0, 2.5), Ring(1.0, 0.95, 10.0, 3.0), _YELLOW),
        ),
        details=(
            Detail((5.2, 0.0, -4.0), (0.5, 2.6, 5.0), _CLEAR),
            Detail((6.0, 0.0, -10.5), (0.9, 2.0, 3.0), _YELLOW),
        ),
        cable_mm=5.5,
        cable_colour=(0.30, 0.33, 0.60),
        label=(0.72, _PAPER),
        surround_mm=(46.0, 40.0, 3.0),
        surround_colour=_ALMOND,
        screws_mm=((-19.0, 0.0), (19.0, 0.0)),
        screw_radius_mm=2.6,
        port_details=(
            Detail((-8.5, 0.0, -0.4), (0.6, 8.5, 0.4), _KEYSTONE),
            Detail((8.5, 0.0, -0.4), (0.6, 8.5, 0.4), _KEYSTONE),
            Detail((0.0, -9.0, -0.4), (9.1, 0.6, 0.4), _KEYSTONE),
            Detail((0.0, 9.0, -0.4), (9.1, 0.6, 0.4), _KEYSTONE),
        ),
    ),
    # A wide hood with two thumb screws; the port is in a steel bracket with hexagonal nuts.
    "vga": Look(
        overmould=(
            Piece(Ring(0.0, 1.5, 13.5, 2.5), Ring(0.30, 1.5, 13.5, 2.5), _BLUE),
            Piece(Ring(0.30, 1.4, 13.0, 3.0), Ring(0.45, 1.0, 12.5, 3.0), _BLUE),
            Piece(Ring(0.45, 1.0, 12.5, 3.0), Ring(1.0, 0.85, 11.5, 4.0), _BLUE),
        ),
        details=(
            Detail((0.0, -12.5, -10.5), (2.6, 2.6, 3.5), _STEEL),
            Detail((0.0, 12.5, -10.5), (2.6, 2.6, 3.5), _STEEL),
            Detail((6.8, 0.0, -4.5), (0.2, 8.0, 1.5), (0.20, 0.28, 0.6)),
        ),
        cable_mm=7.0,
        cable_colour=_BLACK,
        label=(0.68, _PAPER),
        surround_mm=(20.0, 74.0, 0.8),
        surround_colour=_STEEL,
        screws_mm=((0.0, -12.5), (0.0, 12.5)),
        screw_radius_mm=2.4,
        port_details=(Detail((0.0, -31.0, -0.2), (2.0, 3.2, 0.15), _BLACK),),
    ),
    # Small and round, white, on a thin cable; the port is in a round blue plate with three screws.
    "usb_c": Look(
        overmould=(
            Piece(Ring(0.0, 0.92, 5.8, 2.8), Ring(0.1, 1.0, 6.6, 3.2), _WHITE),
            Piece(Ring(0.1, 1.0, 6.6, 3.2), Ring(0.9, 1.0, 6.6, 3.2), _WHITE),
            Piece(Ring(0.9, 0.6, 5.0, 2.4), Ring(1.0, 0.4, 4.0, 1.9), (0.7, 0.7, 0.7)),
        ),
        details=(),
        cable_mm=3.2,
        cable_colour=_WHITE,
        label=(0.55, (0.55, 0.57, 0.60)),
        surround_mm=(34.0, 34.0, 16.9),
        surround_colour=(0.36, 0.50, 0.60),
        screws_mm=((13.0, 0.0), (-6.5, 11.26), (-6.5, -11.26)),
        screw_radius_mm=1.5,
    ),
    # A wedge with a step, on a braided cable; the port is in a brass-coloured stadium.
    "hdmi": Look(
        overmould=(
            Piece(Ring(0.0, 1.2, 11.5, 3.0), Ring(0.22, 1.2, 11.5, 3.0), _ORANGE),
            Piece(Ring(0.22, 1.1, 10.0, 3.0), Ring(0.30, 1.0, 9.0, 3.0), _BLACK),
            Piece(Ring(0.30, 1.0, 9.0, 3.0), Ring(1.0, 0.6, 7.0, 3.0), _ORANGE),
        ),
        details=_ridges((9.0, 11.0, 13.0), 4.4, 3.5, _BLACK),
        cable_mm=6.0,
        cable_colour=(0.40, 0.36, 0.34),
        label=(0.8, _PAPER),
        surround_mm=(24.0, 54.0, 11.9),
        surround_colour=_BRASS,
        screws_mm=((0.0, -20.0), (0.0, 20.0)),
        screw_radius_mm=2.2,
        port_details=(Detail((9.0, 0.0, -0.2), (1.0, 7.0, 0.2), _BLACK),),
    ),
    # A box with shoulders and the button of its latch; the port is in a wide green panel with four screws.
    "displayport": Look(
        overmould=(
            Piece(Ring(0.0, 1.0, 10.0, 0.6), Ring(0.78, 1.0, 10.0, 0.6), _GREEN),
            Piece(Ring(0.78, 1.0, 10.0, 0.6), Ring(1.0, 0.45, 8.0, 2.0), _GREEN),
        ),
        details=(
            Detail((5.6, 0.0, -18.5), (0.7, 4.0, 3.5), (0.75, 0.76, 0.72)),
            Detail((5.1, -7.5, -6.0), (0.25, 0.6, 5.0), (0.06, 0.25, 0.17)),
            Detail((5.1, 7.5, -6.0), (0.25, 0.6, 5.0), (0.06, 0.25, 0.17)),
        ),
        cable_mm=6.5,
        cable_colour=(0.5, 0.52, 0.5),
        label=(0.3, _PAPER),
        surround_mm=(40.0, 46.0, 6.0),
        surround_colour=(0.28, 0.36, 0.32),
        screws_mm=((-16.0, -19.0), (-16.0, 19.0), (16.0, -19.0), (16.0, 19.0)),
        screw_radius_mm=2.0,
    ),
    # A nickel cylinder with a coloured ring and a rubber boot; the port is a round flange with its push tab.
    "xlr": Look(
        overmould=(
            Piece(Ring(0.0, 1.03, 20.5, 10.2), Ring(0.06, 1.03, 20.5, 10.2), (0.45, 0.45, 0.42)),
            Piece(Ring(0.06, 1.0, 19.9, 9.9), Ring(0.80, 1.0, 19.9, 9.9), _NICKEL),
            Piece(Ring(0.80, 0.97, 19.3, 9.6), Ring(0.86, 0.97, 19.3, 9.6), _RED),
            Piece(Ring(0.86, 0.9, 17.9, 8.9), Ring(1.0, 0.6, 11.9, 5.9), _BLACK),
        ),
        details=(),
        cable_mm=6.5,
        cable_colour=_RED,
        label=(0.35, (0.12, 0.12, 0.12)),
        surround_mm=(30.0, 30.0, 14.9),
        surround_colour=_NICKEL,
        screws_mm=((-9.5, 12.0), (9.5, -12.0)),
        screw_radius_mm=2.2,
        port_details=(Detail((12.2, 0.0, -0.6), (2.2, 3.5, 0.6), _RED),),
    ),
}


def overmould_m(grip_m: float) -> float:
    """Length of an overmould whose shoulder is `grip_m` below the tcp."""
    return grip_m + ABOVE_TCP_M


def _rounded(width_m: float, thickness_m: float, radius_m: float) -> Array:
    """Rectangle `width_m` along y, `thickness_m` along x, with cut corners (8, 2), or round (16, 2)."""
    half = np.array([thickness_m, width_m]) / 2
    radius = min(radius_m, half.min() - 1e-5)
    quarter = np.linspace(0.0, math.pi / 2, 4 if radius > 0.9 * half.max() else 2)
    points = []
    for k, signs in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angles = quarter + k * math.pi / 2
        points.append(signs * (half - radius) + radius * np.column_stack([np.cos(angles), np.sin(angles)]))
    return np.concatenate(points)


def _piece(piece: Piece, width_m: float, length_m: float) -> Solid:
    rings = [
        at_height(_rounded(r.width * width_m, MM * r.thickness_mm, MM * r.radius_mm), -r.part * length_m)
        for r in (piece.low, piece.high)
    ]
    return loft(rings)


def _box(detail: Detail) -> Solid:
    x, y, z = MM * np.array(detail.half_mm)
    corners = polygon.rectangle(2 * y, 2 * x)
    vertices, faces = loft([at_height(corners, -z), at_height(corners, z)])
    return vertices + MM * np.array(detail.position_mm), faces


def _label(look: Look, width_m: float, length_m: float) -> Solid:
    """A printed label on the face towards the wrist camera."""
    part = look.label[0]
    piece = next(p for p in look.overmould if p.low.part <= part <= p.high.part)
    low, high = piece.low, piece.high
    slope = MM * (high.thickness_mm - low.thickness_mm) / 2 / (high.part - low.part)
    half = LABEL_HALF_M[1] / length_m
    loops = []
    for at in (max(part - half, low.part), min(part + half, high.part)):
        x, y = MM * low.thickness_mm / 2 + slope * (at - low.part), LABEL_HALF_M[0] * width_m
        corners = np.array([[x - 1e-3, -y], [x + LABEL_M, -y], [x + LABEL_M, y], [x - 1e-3, y]])
        loops.append(at_height(corners, -at * length_m))
    return loft(loops)


def _discs(middles_mm: tuple[tuple[float, float], ...], radius_mm: float, height_m: float) -> Solid:
    """Flat discs of eight corners on the face of the housing."""
    angles = np.linspace(0.0, 2.0 * math.pi, DISC_CORNERS, endpoint=False)
    circle = radius_mm * np.column_stack([np.cos(angles), np.sin(angles)])
    loops = [MM * (np.array(middle) + circle) for middle in middles_mm]
    return joined([loft([at_height(loop, 0.0), at_height(loop, -height_m)]) for loop in loops])


def _cable(radius_mm: float) -> Solid:
    """Tube along CABLE_PATH_MM; its first part is the thicker strain relief."""
    path = np.array(CABLE_PATH_MM)
    ways = np.gradient(path, axis=0)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    angles = np.linspace(0.0, 2.0 * math.pi, TUBE_CORNERS, endpoint=False)
    loops = []
    for k, ((x, z), (way_x, way_z)) in enumerate(zip(path, ways, strict=True)):
        radius = radius_mm * (1.3 if k < 2 else 1.0)
        out, side = radius * np.cos(angles), radius * np.sin(angles)
        loops.append(MM * np.column_stack([x + out * way_z, side, z - out * way_x]))
    return loft(loops)


def _by_colour(parts: Iterable[tuple[Colour, float, Solid]]) -> dict[str, Solid]:
    """Colour and alpha, as an attribute -> what has them; one mesh each, since each geom takes time to draw."""
    found: dict[str, list[Solid]] = defaultdict(list)
    for colour, alpha, solid in parts:
        found[f"{numbers(np.array(colour))} {alpha:g}"].append(solid)
    return {attribute: joined(solids) for attribute, solids in found.items()}


def _plug(look: Look, width_m: float, length_m: float) -> dict[str, Solid]:
    return _by_colour(
        [
            *((piece.colour, piece.alpha, _piece(piece, width_m, length_m)) for piece in look.overmould),
            *((detail.colour, 1.0, _box(detail)) for detail in look.details),
            (look.label[1], 1.0, _label(look, width_m, length_m)),
        ]
    )


def _fittings(look: Look) -> dict[str, Solid]:
    """Screws and other parts of the port."""
    screws = _discs(look.screws_mm, look.screw_radius_mm, SCREW_M)
    return _by_colour([(_SCREW, 1.0, screws), *((part.colour, 1.0, _box(part)) for part in look.port_details)])


def _surround(item: Connector, look: Look) -> str:
    rim = polygon.offset(polygon.offset(item.section, item.clearance_m + item.chamfer_m), port.RIM_M)
    x, y, radius = MM * np.array(look.surround_mm)
    outline = _rounded(y, x, radius)
    angles = polygon.corner_angles(rim, outline)
    outside, inside = polygon.along_rays(outline, angles), polygon.along_rays(rim, angles)
    levels = (outside, 0.0), (outside, -SURROUND_M), (inside, -SURROUND_M), (inside, 0.0)
    return ring_mesh("surround", [at_height(loop, z) for loop, z in levels])


def meshes(item: Connector, grip_m: float) -> str:
    """Mesh assets of plug, port and fixture; grip_m: tcp to shoulder."""
    look = LOOKS[item.name]
    plug = _plug(look, port.grip_width_m(item), overmould_m(grip_m))
    return "".join(
        [
            port.meshes(item),
            *(surface(f"grip{k}", *solid) for k, solid in enumerate(plug.values())),
            surface("cable", *_cable(look.cable_mm / 2)),
            *(surface(f"fitting{k}", *solid) for k, solid in enumerate(_fittings(look).values())),
            _surround(item, look),
            marked_fixture_and_table_mjcf(),
        ]
    )


def _geoms(name: str, parts: Iterable[str]) -> list[str]:
    return [f'<geom name="{name}{k}" type="mesh" mesh="{name}{k}" rgba="{colour}"/>' for k, colour in enumerate(parts)]


def port_visuals(item: Connector) -> str:
    """What is drawn of the port: the plain parts without their screws, the surround and its own, and marks."""
    look = LOOKS[item.name]
    plain = [line for line in port.port_visuals(item).splitlines() if 'type="cylinder"' not in line]
    covered = all(size >= 2e3 * half for size, half in zip(look.surround_mm, reversed(port.PLATE_HALF_M), strict=False))
    return "\n".join(
        [
            *(line for line in plain if not (covered and 'name="plate"' in line)),
            f'<geom name="surround" type="mesh" mesh="surround" rgba="{rgba(look.surround_colour)}"/>',
            *_geoms("fitting", _fittings(look)),
            FIXTURE_MARKS_MJCF,
        ]
    )


def plug_visuals(item: Connector, grip_m: float) -> str:
    """What is drawn of the plug: shell, overmould with its label, and the cable."""
    look, length = LOOKS[item.name], overmould_m(grip_m)
    plug = _plug(look, port.grip_width_m(item), length)
    return "\n".join(
        [
            f'<geom name="shell" type="mesh" mesh="plug" rgba="{rgba(item.plug_colour)}"/>',
            *_geoms("grip", plug),
            f'<body name="cable" pos="0 0 {-length:.9g}"><geom name="cable" type="mesh" mesh="cable" '
            f'rgba="{rgba(look.cable_colour)}"/></body>',
        ]
    )
