"""The seven connectors of the paper by their public dimensions.

Cross-sections are convex hulls of the mating shells, in the port's frame: z into the port, the wide side
along y, x away from the robot. Dimensions: USB-A and Type-C from the USB-IF's cable and connector
specifications, HDMI type A and DisplayPort from their plug drawings, RJ45 from IEC 60603-7, VGA (DE-15)
from IEC 60807-2 (shell size E, sides at 10 degrees), XLR from IEC 61076-2-103.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
