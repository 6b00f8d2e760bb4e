"""Pepper and corn as they are where the cell is not ideal: shape, mass, friction, and looks.

Contact shapes are capsules along the lobes of the pepper and the rows of the corn, exact against the boxes of fingers
and bowl; both taper, and rest on two of them. Sizes in m.

  pepper  61 mm long, 52 mm wide, 74 g: "small" of USDA FoodData Central (peppers, sweet, green, raw). It is hollow.
  corn    110 mm long, 40 mm wide at its foot and 27 mm at its tip: shorter than a small ear there (140 to 165 mm),
          which would not fit the bowl. 100 g: its volume at the density of water.

Friction against everything, the fingers included: 0.5 for a waxy skin, 0.8 for kernels. These two are our estimates.
The least force of the fingers that carries it is weight / (2 friction): 0.73 N and 0.61 N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.frames import pose
from rldg_sim import polygon
from rldg_sim.cavity import surface
from rldg_sim.looks import marks_mjcf
from rldg_sim.mjcf import numbers
from rldg_sim.scenes.pick_and_place.tabletop import TABLE_HALF_M, TABLE_MIDDLE_M
from rldg_sim.solids import Solid, joined, loft, smooth_mesh

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Produce:
    """Bundle of capsules around the x axis.

    Each of `lobes` capsules of radius_m runs from (foot_x_m, foot_m) to (tip_x_m, tip_m): along x, and from the axis;
    first_rad: angle of the first one about x, from y.
    """

    lobes: int
    first_rad: float
    radius_m: float
    foot_x_m: float
    foot_m: float
    tip_x_m: float
    tip_m: float
    mass_kg: float
    friction: float

    @property
    def angles_rad(self) -> Array:
        """Angles of the capsules."""
        return self.first_rad + 2 * math.pi * np.arange(self.lobes) / self.lobes

    @property
    def rest(self) -> tuple[float, float]:
        """Height of the origin above a table that it rests on [m], and how far its x points down [rad]."""
        lowest = float(np.sin(self.angles_rad).max())
        foot, tip, length = lowest * self.foot_m, lowest * self.tip_m, self.tip_x_m - self.foot_x_m
        below = foot + (tip - foot) * -self.foot_x_m / length
        down = math.atan2(foot - tip, length)
        return below * math.cos(down) + self.radius_m, down


PRODUCE: dict[str, Produce] = {
    "green_pepper": Produce(4, math.pi / 4, 0.0165, -0.013, 0.008, 0.015, 0.0135, 0.074, 0.5),
    "yellow_corn": Produce(6, 0.0, 0.007, -0.046, 0.013, 0.050, 0.0065, 0.100, 0.8),
}


def lies(item: Produce, x: float, y: float, yaw_rad: float) -> Array:
    """Pose (7,) in base of an object that rests on the table; its z points down, as the tool's."""
    height, down = item.rest
    turn = Rotation.from_rotvec([0.0, 0.0, yaw_rad]) * Rotation.from_euler("y", down)
    return pose((x, y, height), (turn * Rotation.from_quat([1.0, 0.0, 0.0, 0.0])).as_quat())


def contacts(item: Produce) -> str:
    """The capsules; their friction holds against pads and table alike."""
    parts = []
    for angle in item.angles_rad:
        across = np.array([math.cos(angle), math.sin(angle)])
        ends = np.concatenate([[item.foot_x_m], item.foot_m * across, [item.tip_x_m], item.tip_m * across])
        parts.append(
            f'<geom type="capsule" fromto="{numbers(ends)}" size="{item.radius_m}" mass="{item.mass_kg / item.lobes}" '
            f'condim="6" friction="{item.friction} 0.01 0.0015" priority="2"/>'
        )
    return "\n".join(parts)


def meshes(name: str) -> str:
    """Mesh assets of an object and of its table."""
    item = PRODUCE[name]
    if name == "green_pepper":
        return smooth_mesh("produce", _pepper(item)) + surface("stem", *_stem(item)) + marks_mjcf("laminate")
    rows = joined([_row(item, k) for k in range(CORN_ROWS)])
    return (
        surface("produce", *_cob(item))
        + surface("rows", *rows)
        + surface("husk", *_husk(item))
        + surface("planks", *_planks())
        + marks_mjcf("wood")
    )


def visuals(name: str) -> str:
    """What is drawn of an object."""
    colours = (
        {"produce": ".13 .50 .12 1", "stem": ".40 .50 .17 1"}
        if name == "green_pepper"
        else {"produce": ".80 .58 .07 1", "rows": ".96 .80 .16 1", "husk": ".60 .71 .30 1"}
    )
    return "".join(f'<geom name="{k}" type="mesh" mesh="{k}" rgba="{colour}"/>' for k, colour in colours.items())


def table_visuals(look: str) -> str:
    """A grey laminate with marks, or boards of beige wood with their grain."""
    (x, y), (half_x, half_y) = TABLE_MIDDLE_M, TABLE_HALF_M
    box = f'<geom name="table" type="box" pos="{x} {y} -.021" size="{half_x} {half_y} .02" rgba="%s"/>'
    above = f'pos="{x} {y} .0002"'
    if look == "grey":
        table = box.replace("-.021", "-.02") % ".46 .48 .51 1"
        return f'{table}<geom name="laminate" type="mesh" mesh="laminate" {above} rgba=".53 .55 .57 1"/>'
    return (
        box % ".45 .33 .21 1"
        + f'<geom name="planks" type="mesh" mesh="planks" pos="{x} {y} 0" rgba=".84 .72 .54 1"/>'
        + f'<geom name="wood" type="mesh" mesh="wood" {above} rgba=".70 .56 .38 1"/>'
    )


CORNERS = 24
CORN_ROWS = 9
CORN_KERNELS = 10
LEAF = ((-0.012, 0.005, 1.0), (0.004, 0.0165, 1.0), (0.020, 0.0195, 0.7), (0.036, 0.021, 0.1))
"""From the corn's foot along it and from its axis [m], and width relative to that at the foot."""


def _pepper(item: Produce) -> Solid:
    """Bulbous body with lobes, a dimple at its shoulder, and a narrower end; within the capsules' outline."""
    foot, tip = item.foot_x_m - item.radius_m, item.tip_x_m + item.radius_m
    part = (0.0, 0.04, 0.15, 0.35, 0.6, 0.8, 0.93, 1.0)
    width = (0.15, 0.42, 0.68, 0.84, 0.97, 1.0, 0.86, 0.55)
    angles = 2 * math.pi * np.arange(CORNERS) / CORNERS
    widest = item.tip_m + item.radius_m
    lobed = 0.92 + 0.08 * np.cos(item.lobes * (angles - item.first_rad))
    loops = [_loop(foot + p * (tip - foot), widest * w * lobed, angles) for p, w in zip(part, width, strict=True)]
    loops.append(_loop(tip - 0.006, 0.2 * widest * lobed, angles))
    return loft(loops)


def _stem(item: Produce) -> Solid:
    """Calyx and a bent stem."""
    tip = item.tip_x_m + item.radius_m
    angles = 2 * math.pi * np.arange(6) / 6
    calyx = loft([_loop(tip - 0.006, np.full(6, 0.009), angles), _loop(tip - 0.001, np.full(6, 0.005), angles)])
    path = ((tip - 0.003, 0.0), (tip + 0.006, 0.001), (tip + 0.013, 0.005))
    stem = loft([_loop(x, np.full(6, 0.0035), angles) + np.array([0.0, y, 0.0]) for x, y in path])
    return joined([calyx, stem])


def _cone(item: Produce, part: float) -> float:
    """Outer radius at a part of the way from foot to tip."""
    return float(np.interp(part, (0.0, 1.0), (item.foot_m, item.tip_m))) + item.radius_m


def _cob(item: Produce) -> Solid:
    angles = 2 * math.pi * np.arange(12) / 12
    foot, length = item.foot_x_m - item.radius_m, item.tip_x_m - item.foot_x_m + 2 * item.radius_m
    parts = ((0.0, 0.6), (0.06, 0.88), (0.3, 0.93), (0.85, 0.93), (0.95, 0.7), (1.0, 0.2))
    return loft([_loop(foot + p * length, np.full(12, wide * _cone(item, p)), angles) for p, wide in parts])


def _row(item: Produce, number: int) -> Solid:
    """A row of kernels: blocks along the cob."""
    angle = 2 * math.pi * number / CORN_ROWS
    out = np.array([0.0, math.cos(angle), math.sin(angle)])
    sides = np.array([[1.0, 0.0, 0.0], [0.0, -math.sin(angle), math.cos(angle)]])
    kernels, pitch = [], (item.tip_x_m - item.foot_x_m) / CORN_KERNELS
    for k in range(CORN_KERNELS):
        part = (k + 0.5) / CORN_KERNELS
        radius, x = _cone(item, part), item.foot_x_m + part * (item.tip_x_m - item.foot_x_m)
        block = polygon.rectangle(0.54 * radius, 0.9 * pitch)
        kernels.append(
            loft([np.array([x, 0, 0]) + up * radius * out + s * (block @ sides) for up, s in ((0.9, 1.0), (1.0, 0.7))])
        )
    return joined(kernels)


def _husk(item: Produce) -> Solid:
    """Three leaves around the foot."""
    leaves = []
    foot = item.foot_x_m - item.radius_m
    for angle in 2 * math.pi * np.arange(3) / 3:
        middle = angle + np.linspace(-0.7, 0.7, 4)
        loops = []
        for x, radius, spread in LEAF:
            turned = angle + spread * (middle - angle)
            outer = _loop(foot + x, np.full(4, radius + 0.0008), turned)
            inner = _loop(foot + x, np.full(4, radius), turned[::-1])
            loops.append(np.concatenate([outer, inner]))
        leaves.append(loft(loops))
    return joined(leaves)


def _planks() -> Solid:
    """Boards 75 mm wide; their tops lie at z = 0."""
    half_x, half_y = TABLE_HALF_M
    boards = 16
    width = 2 * half_y / boards
    solids = []
    for k in range(boards):
        low, high = -half_y + k * width + 0.0008, -half_y + (k + 1) * width - 0.0008
        corners = np.array([[-half_x, low, 0.0], [half_x, low, 0.0], [half_x, high, 0.0], [-half_x, high, 0.0]])
        solids.append(loft([corners - np.array([0.0, 0.0, 0.01]), corners]))
    return joined(solids)


def _loop(x: float, radii: Array, angles: Array) -> Array:
    """Points (n, 3) around the x axis."""
    return np.column_stack([np.full(len(angles), x), radii * np.cos(angles), radii * np.sin(angles)])
