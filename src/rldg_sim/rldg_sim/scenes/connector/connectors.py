"""The seven connectors of the paper by their public dimensions.

Cross-sections are convex hulls of the mating shells, in the port's frame: z into the port, the wide side
along y, x away from the robot. Dimensions: USB-A and Type-C from the USB-IF's cable and connector
specifications, HDMI type A and DisplayPort from their plug drawings, RJ45 from IEC 60603-7, VGA (DE-15)
from IEC 60807-2 (shell size E, sides at 10 degrees), XLR from IEC 61076-2-103.

How each one mates (`MATING`; not in the ideal cell) has published limits, named beside each value. The force used
lies within them and is at most 12 N: the controller's error clip presses with 16 N, of which friction of the arm and
errors of its model take a part. Grips, heights and places in the housing are our estimates, to a millimetre or two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_sim import polygon
from rldg_sim.cavity import Colour

Array = NDArray[np.float64]
MM = 1e-3


@dataclass(frozen=True)
class Connector:
    """One plug and its port.

    section: (n, 2) cross-section of the plug [m]; depth_m: length of the plug below its shoulder, so full
    insertion; clearance_m: gap per side; chamfer_m: 45-degree lead-in of the port; colours: plug shell,
    overmould (the grip), rim of the port.
    """

    name: str
    section: Array
    depth_m: float
    clearance_m: float
    chamfer_m: float
    plug_colour: Colour
    grip_colour: Colour
    port_colour: Colour

    @property
    def extent_m(self) -> Array:
        """Half extents (2,) of the cross-section along x and y."""
        return np.asarray(np.abs(self.section).max(axis=0), dtype=np.float64)


def _d_shell(width: float, height: float) -> Array:
    """Trapezium of a D-sub shell: 10-degree sides, wide side towards +x."""
    inset = height * math.tan(math.radians(10))
    x, y = height / 2, width / 2
    return np.array([[-x, -y + inset], [x, -y], [x, y], [-x, y - inset]])


def _cut(width: float, height: float, cut: float, corners: str) -> Array:
    """Rectangle with 45-degree cuts at the named corners: each of "-- +- ++ -+" (signs of x and y)."""
    points: list[list[float]] = []
    for (x, y), name in zip(polygon.rectangle(width, height), ("--", "+-", "++", "-+"), strict=True):
        if name not in corners.split():
            points.append([x, y])
            continue
        along_x, along_y = [x - math.copysign(cut, x), y], [x, y - math.copysign(cut, y)]
        points += [along_y, along_x] if name in ("--", "++") else [along_x, along_y]
    return np.array(points)


def _rj45() -> Array:
    """Hull of the body, 11.68 x 6.5 mm, and of the latch, 6.0 x 1.6 mm on top of it (towards +x)."""
    x, y, latch_x, latch_y = 3.25 * MM, 5.84 * MM, 4.85 * MM, 3.0 * MM
    points = np.array([[-x, -y], [x, -y], [latch_x, -latch_y], [latch_x, latch_y], [x, y], [-x, y]])
    return np.asarray(points - np.array([(latch_x - x) / 2, 0.0]), dtype=np.float64)


@dataclass(frozen=True)
class Mating:
    """How a plug is held and what resists it.

    grip_m: tcp to shoulder along the tool; port_xyz_m: the middle of the port's mouth in the D-type housing, x away
    from the robot, y along the housing, z above its face; resistance_n: (part of the depth from 0, force [N]), linear
    between; withdrawal_n: force that resists while it moves out.
    """

    grip_m: float
    port_xyz_m: tuple[float, float, float]
    resistance_n: tuple[tuple[float, float], ...]
    withdrawal_n: float

    def force_n(self, depth: float, outwards: bool) -> float:
        """Return the force that resists at a part of the full depth, 0 outside the port."""
        if depth <= 0.0:
            return 0.0
        if outwards:
            return self.withdrawal_n
        for (low, low_n), (high, high_n) in pairwise(self.resistance_n):
            if depth < high:
                return low_n + (high_n - low_n) * (depth - low) / (high - low)
        return self.resistance_n[-1][1]


MATING: dict[str, Mating] = {
    # USB 2.0, 6.7: insertion at most 35 N, extraction at least 10 N.
    "usb_a": Mating(0.012, (0.0, 0.0, 0.0), ((0.0, 0.0), (0.3, 8.0), (1.0, 10.0)), 10.0),
    # IEC 60603-7: at most 20 N with the latch; it clicks shortly before the end. Keystone: 30 N.
    "ethernet": Mating(
        0.016, (0.0, 0.0, -0.002), ((0.0, 0.0), (0.3, 5.0), (0.75, 7.0), (0.88, 11.0), (0.95, 6.0), (1.0, 6.0)), 6.0
    ),
    # IEC 60807-2: at most 3.4 N a contact, 15 contacts.
    "vga": Mating(0.020, (0.0, 0.0, 0.0), ((0.0, 0.0), (0.35, 9.0), (1.0, 12.0)), 9.0),
    # USB Type-C 2.0, 3.8.1: insertion 5 to 20 N, extraction 8 to 20 N.
    "usb_c": Mating(0.010, (0.0, 0.002, 0.001), ((0.0, 0.0), (0.5, 6.0), (0.9, 8.0), (1.0, 7.0)), 8.0),
    # HDMI 1.4, 4.1.9: insertion at most 44.1 N, withdrawal 9.8 to 39.2 N.
    "hdmi": Mating(0.014, (0.0, -0.002, 0.0), ((0.0, 0.0), (0.4, 8.0), (1.0, 11.0)), 10.0),
    # DisplayPort 1.4, 4.2: insertion at most 44.1 N, with latches.
    "displayport": Mating(0.018, (0.0, 0.002, -0.001), ((0.0, 0.0), (0.4, 7.0), (0.85, 11.5), (1.0, 9.0)), 10.0),
    # Neutrik XX series: insertion and withdrawal at most 20 N.
    "xlr": Mating(0.032, (0.0, 0.0, 0.001), ((0.0, 0.0), (0.4, 6.0), (0.9, 10.0), (1.0, 8.0)), 9.0),
}


_STEEL: Colour = (0.78, 0.79, 0.81)
CONNECTORS: dict[str, Connector] = {
    c.name: c
    for c in (
        Connector(
            "usb_a",
            polygon.rectangle(12.0 * MM, 4.5 * MM),
            8.5 * MM,
            0.2 * MM,
            0.5 * MM,
            _STEEL,
            (0.15, 0.15, 0.17),
            (0.15, 0.4, 0.85),
        ),
        Connector(
            "ethernet",
            _rj45(),
            9.0 * MM,
            0.25 * MM,
            0.5 * MM,
            (0.85, 0.85, 0.75),
            (0.85, 0.75, 0.15),
            (0.75, 0.72, 0.6),
        ),
        Connector(
            "vga",
            _d_shell(16.9 * MM, 8.36 * MM),
            6.0 * MM,
            0.25 * MM,
            0.5 * MM,
            _STEEL,
            (0.12, 0.18, 0.45),
            (0.45, 0.6, 0.9),
        ),
        Connector(
            "usb_c",
            _cut(8.25 * MM, 2.4 * MM, 0.7 * MM, "-- +- ++ -+"),
            6.65 * MM,
            0.15 * MM,
            0.4 * MM,
            (0.7, 0.71, 0.74),
            (0.85, 0.85, 0.87),
            (0.8, 0.8, 0.82),
        ),
        Connector(
            "hdmi",
            _cut(13.9 * MM, 4.45 * MM, 1.3 * MM, "-- -+"),
            8.0 * MM,
            0.2 * MM,
            0.4 * MM,
            (0.85, 0.7, 0.35),
            (0.1, 0.1, 0.1),
            (0.9, 0.75, 0.4),
        ),
        Connector(
            "displayport",
            _cut(16.1 * MM, 4.76 * MM, 1.6 * MM, "-+"),
            8.0 * MM,
            0.2 * MM,
            0.4 * MM,
            _STEEL,
            (0.3, 0.3, 0.32),
            (0.55, 0.56, 0.6),
        ),
        Connector(
            "xlr",
            polygon.regular(15.9 * MM, 12),
            9.0 * MM,
            0.3 * MM,
            0.6 * MM,
            (0.6, 0.62, 0.65),
            (0.25, 0.05, 0.05),
            (0.75, 0.75, 0.2),
        ),
    )
}


def connector(name: str) -> Connector:
    """Return the connector of this name. Raises UserError naming those that exist."""
    try:
        return CONNECTORS[name]
    except KeyError:
        raise UserError(
            f"object {name!r}: the simulated cell has no such connector, expected one of {', '.join(CONNECTORS)}"
        ) from None
