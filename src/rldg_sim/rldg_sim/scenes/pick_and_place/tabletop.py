"""What lies on the table in Pick and Place: objects, the bowl and the table itself, as MJCF.

Objects are capsules for the physics - exact and fast against the boxes of fingers and bowl - and a few
ellipsoids for cameras. The bowl is a real container: a ring of slanted boxes on a floor, drawn as a smooth
surface. An object's frame lies in its middle: x along it, z down as the tool's when it lies on the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError

Array = NDArray[np.float64]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Item:
    """A graspable object: capsule of radius_m whose axis is 2 half_length_m long, mass [kg], look and table."""

    radius_m: float
    half_length_m: float
    mass_kg: float
    look: str
    table: str


ITEMS: dict[str, Item] = {
    "green_pepper": Item(0.024, 0.014, 0.08, "pepper", "grey"),
    "yellow_corn": Item(0.020, 0.032, 0.09, "corn", "wood"),
}

TABLE_MIDDLE_M = (0.35, 0.0)
TABLE_HALF_M = (0.75, 0.6)
"""The table's top lies at z = 0 of base."""
BOWL_RIM_M = 0.068
"""Inner radius of the bowl at its rim ..."""
BOWL_FLOOR_M = 0.048
"""... and at its floor."""
BOWL_HEIGHT_M = 0.045
BOWL_WALLS = 12
FLOOR_M = 0.004
WALL_M = 0.004
_BOWL_RGBA = ".25 .42 .72 1"
_BOWL_INSIDE_RGBA = ".34 .52 .82 1"


def tabletop_item(name: str) -> Item:
    """Return the object of this name. Raises UserError naming those that exist."""
    try:
        return ITEMS[name]
    except KeyError:
        raise UserError(
            f"object {name!r}: the simulated table has no such object, expected one of {', '.join(ITEMS)}"
        ) from None


def _numbers(values: Array) -> str:
    return " ".join(f"{v:.9g}" for v in np.asarray(values, dtype=np.float64).ravel())


def item_contacts(item: Item) -> str:
    """The capsule, with friction against sliding, turning and rolling."""
    return (
        f'<geom name="object" type="capsule" fromto="{-item.half_length_m} 0 0 {item.half_length_m} 0 0" '
        f'size="{item.radius_m}" mass="{item.mass_kg}" condim="6" friction="0.8 0.01 0.0015"/>'
    )


def item_visuals(item: Item) -> str:
    """What is drawn of an object, inside its capsule."""
    return _pepper(item) if item.look == "pepper" else _corn(item)


def _pepper(item: Item) -> str:
    radius, length = item.radius_m, item.half_length_m + item.radius_m
    green, shade = ".13 .52 .12 1", ".10 .43 .10 1"
    lobes = []
    for k in range(4):
        angle = math.pi / 4 + k * math.pi / 2
        y, z = 0.42 * radius * math.cos(angle), 0.42 * radius * math.sin(angle)
        lobes.append(
            f'<geom type="ellipsoid" pos="0 {y:.6g} {z:.6g}" size="{0.95 * length:.6g} {0.6 * radius:.6g} '
            f'{0.6 * radius:.6g}" rgba="{green if k % 2 else shade}"/>'
        )
    stem = length * 0.86
    return "\n".join(
        [
            *lobes,
            f'<geom type="ellipsoid" size="{0.9 * length:.6g} {0.8 * radius:.6g} {0.8 * radius:.6g}" rgba="{shade}"/>',
            f'<geom type="capsule" fromto="{stem:.6g} 0 0 {stem + 0.012:.6g} .003 0" size=".0035" '
            'rgba=".42 .50 .16 1"/>',
        ]
    )


def _corn(item: Item) -> str:
    radius, length = item.radius_m, item.half_length_m
    rows = []
    for k in range(8):
        angle = k * math.pi / 4
        y, z = 0.72 * radius * math.cos(angle), 0.72 * radius * math.sin(angle)
        colour = ".96 .80 .12 1" if k % 2 else ".88 .68 .08 1"
        ends = np.array([-length, y, z, length + 0.006, 0.6 * y, 0.6 * z])
        rows.append(f'<geom type="capsule" fromto="{_numbers(ends)}" size="{0.28 * radius:.6g}" rgba="{colour}"/>')
    husk = "\n".join(
        f'<geom type="ellipsoid" pos="{-length - 0.006:.6g} {side * 0.45 * radius:.6g} 0" '
        f'size=".016 {0.5 * radius:.6g} {0.7 * radius:.6g}" rgba=".62 .72 .30 1"/>'
        for side in (-1, 1)
    )
    core = (
        f'<geom type="capsule" fromto="{-length:.6g} 0 0 {length:.6g} 0 0" size="{0.8 * radius:.6g}" '
        'rgba=".96 .80 .12 1"/>'
    )
    return "\n".join([core, *rows, husk])


def table_contacts() -> str:
    """The table's top."""
    x, y = TABLE_MIDDLE_M
    return (
        f'<geom name="table" type="box" pos="{x} {y} -.02" size="{TABLE_HALF_M[0]} {TABLE_HALF_M[1]} .02" '
        'friction="0.8 0.01 0.0015" condim="6"/>'
    )


def table_visuals(look: str) -> str:
    """A plain grey laboratory table, or boards of beige wood."""
    (x, y), (half_x, half_y) = TABLE_MIDDLE_M, TABLE_HALF_M
    if look == "grey":
        return f'<geom name="table" type="box" pos="{x} {y} -.02" size="{half_x} {half_y} .02" rgba=".46 .48 .51 1"/>'
    boards = 16
    width = 2 * half_y / boards
    planks = [
        f'<geom type="box" pos="{x} {y - half_y + (k + 0.5) * width:.6g} -.02" '
        f'size="{half_x} {width / 2 - 0.0008:.6g} .02" rgba=".84 .72 .54 1"/>'
        for k in range(boards)
    ]
    gaps = f'<geom name="table" type="box" pos="{x} {y} -.021" size="{half_x} {half_y} .02" rgba=".52 .40 .26 1"/>'
    return "\n".join([gaps, *planks])


def bowl_contacts() -> str:
    """Ring of boxes and floor; z = 0 is the table, +z points up."""
    slant = math.atan2(BOWL_RIM_M - BOWL_FLOOR_M, BOWL_HEIGHT_M)
    length = math.hypot(BOWL_RIM_M - BOWL_FLOOR_M, BOWL_HEIGHT_M)
    middle = (BOWL_RIM_M + BOWL_FLOOR_M) / 2
    walls = []
    for k in range(BOWL_WALLS):
        angle = 2 * math.pi * k / BOWL_WALLS
        out = np.array([math.cos(angle), math.sin(angle), 0.0])
        along = np.array([-out[1], out[0], 0.0])
        normal = out * math.cos(slant) - np.array([0.0, 0.0, math.sin(slant)])
        centre = out * middle + np.array([0.0, 0.0, BOWL_HEIGHT_M / 2]) + normal * WALL_M / 2
        half = (WALL_M / 2, (BOWL_RIM_M + WALL_M) * math.tan(math.pi / BOWL_WALLS), length / 2)
        walls.append(
            f'<geom type="box" pos="{_numbers(centre)}" size="{_numbers(np.array(half))}" '
            f'xyaxes="{_numbers(np.concatenate([normal, along]))}"/>'
        )
    floor = f'<geom type="cylinder" pos="0 0 {FLOOR_M / 2}" size="{BOWL_FLOOR_M + WALL_M} {FLOOR_M / 2}" condim="6"/>'
    return "\n".join([*walls, floor])


def bowl_mesh() -> str:
    """Surface of revolution through the bowl's inner and outer profile."""
    inner, outer = BOWL_FLOOR_M, BOWL_FLOOR_M + WALL_M
    rim = BOWL_RIM_M
    inside = [(inner, FLOOR_M), (rim, BOWL_HEIGHT_M)]
    outside = [(rim, BOWL_HEIGHT_M), (rim + WALL_M, BOWL_HEIGHT_M), (outer, 0.0)]
    return _revolved("bowl_inside", inside) + _revolved("bowl_outside", outside)


def _revolved(name: str, profile: list[tuple[float, float]], count: int = 32) -> str:
    angles = 2 * np.pi * np.arange(count) / count
    loops = [np.column_stack([r * np.cos(angles), r * np.sin(angles), np.full(count, z)]) for r, z in profile]
    faces = []
    for level in range(len(profile) - 1):
        for k in range(count):
            a, b = level * count + k, level * count + (k + 1) % count
            c, d = a + count, b + count
            faces += [(a, c, b), (b, c, d)]
    text = " ".join(str(i) for face in faces for i in face)
    return f'<mesh name="{name}" inertia="shell" vertex="{_numbers(np.concatenate(loops))}" face="{text}"/>'


def bowl_visuals() -> str:
    """The bowl as cameras see it."""
    return f"""
      <geom type="cylinder" pos="0 0 {FLOOR_M / 2}" size="{BOWL_FLOOR_M + WALL_M / 2} {FLOOR_M / 2}"
            rgba="{_BOWL_RGBA}"/>
      <geom name="bowl_inside" type="mesh" mesh="bowl_inside" rgba="{_BOWL_INSIDE_RGBA}"/>
      <geom name="bowl_outside" type="mesh" mesh="bowl_outside" rgba="{_BOWL_RGBA}"/>"""
