"""Looks that hold for a day: the light, colours of table and fixture, and marks on them.

Drawn models name what varies: geoms "table", "board", "surround" and "grip" (numbers may follow), and meshes of
`marks_mjcf`, whose quadrilaterals are placed here. Without a GPU, a texture that fills the image of a wrist camera
takes half as long as everything else in it; a hundred triangles take little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rldg_core.seeding import derive_seed
from rldg_sim.mjcf import numbers
from rldg_sim.randomisation import Appearance
from rldg_sim.realism.presets import LooksRealism

Array = NDArray[np.float64]

HUE = 1.0 / 3.0
"""Part of a change of brightness by which each colour differs in addition."""
BOLT_M = 0.076
"""Distance of the fixture's bolt holes from its middle, along x and y."""
BOLT_SIDE_M = 6e-3
MIDDLE_M = 0.05
"""Scratches lie further than this from the fixture's middle, along x or y ..."""
SCRATCH_M = 0.04
"""... and are no longer than this."""
_QUADRILATERAL = np.array([[0, 1, 2], [0, 2, 3]])


def drawn_in_detail(looks: LooksRealism) -> bool:
    """Whether the drawn model has more than plain shapes."""
    return looks.detail >= 0.5


def write_day(model: Any, appearance: Appearance, looks: LooksRealism, day: int) -> None:
    """Write a day's light, colours and marks into a drawn model and its appearance; before the first image."""

    def stream(subject: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(day, "cell", "looks", subject))

    light = stream("light")
    strength = 1.0 + looks.light_strength * light.uniform(-1.0, 1.0)
    warmth = looks.light_warmth * light.uniform(-1.0, 1.0)
    appearance.light_diffuse[:] *= strength * np.array([1.0 + warmth, 1.0, 1.0 - warmth])
    appearance.light_dir[:] += looks.light_rad * light.normal(0.0, 1.0, appearance.light_dir.shape)
    appearance.light_dir[:] /= np.linalg.norm(appearance.light_dir, axis=1, keepdims=True)

    tints = {"table": looks.table, "board": looks.fixture, "grip": looks.connector, "surround": looks.connector}
    for geom in range(model.ngeom):
        name = model.geom(geom).name.rstrip("0123456789")
        if name in tints:
            random = stream(name)
            shift = tints[name] * (random.uniform(-1.0, 1.0) + HUE * random.uniform(-1.0, 1.0, 3))
            appearance.geom_rgba[geom, :3] = np.clip(appearance.geom_rgba[geom, :3] * (1.0 + shift), 0.0, 1.0)

    for name, marks in MARKS.items():
        mesh = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MESH, name)
        if mesh >= 0:
            random = stream(f"marks/{name}")
            corners = marks.draw(random, marks.count)
            worn = round((marks.count - marks.always) * looks.wear * random.uniform(0.5, 1.0))
            corners[marks.always + worn :] = 0.0
            _write_vertices(model, mesh, corners.reshape(-1, 2))


@dataclass(frozen=True)
class Marks:
    """Quadrilaterals on a plane.

    half_m: of the rectangle that they lie in; draw: corners (count, 4, 2) of a random generator and a count, in
    metres, counter-clockwise; always: how many of them do not depend on wear.
    """

    count: int
    half_m: tuple[float, float]
    draw: Callable[[np.random.Generator, int], Array]
    always: int


def _lines(middle: Array, angle: Array, length: Array, width: Array) -> Array:
    """Corners (n, 4, 2) of n thin rectangles."""
    along = np.column_stack([np.cos(angle), np.sin(angle)]) * (length / 2)[:, None]
    across = np.column_stack([-np.sin(angle), np.cos(angle)]) * (width / 2)[:, None]
    return middle[:, None] + np.stack([-along - across, along - across, along + across, across - along], axis=1)


def _holes_and_scratches(random: np.random.Generator, count: int) -> Array:
    """Eight bolt holes, of two squares each, and scratches."""
    places = [(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0) if (x, y) != (0.0, 0.0)]
    middle = np.repeat(BOLT_M * np.array(places), 2, axis=0)
    side = np.full(len(middle), BOLT_SIDE_M)
    holes = _lines(middle, np.tile([0.0, np.pi / 4], len(places)), side, side)
    more = count - len(holes)
    # Around the port, so that none crosses its mouth.
    along, beside = random.uniform(-BOLT_M, BOLT_M, more), random.uniform(MIDDLE_M, BOLT_M, more)
    middle = np.column_stack([along, random.choice([-1.0, 1.0], more) * beside])
    middle = np.where(random.random((more, 1)) < 0.5, middle, middle[:, ::-1])
    angle, length = random.uniform(0.0, np.pi, more), random.uniform(0.008, SCRATCH_M, more)
    return np.concatenate([holes, _lines(middle, angle, length, random.uniform(4e-4, 1.2e-3, more))])


def _wood(random: np.random.Generator, count: int) -> Array:
    """Streaks along x."""
    middle = np.column_stack([random.uniform(-0.3, 0.3, count), random.uniform(-0.58, 0.58, count)])
    length, angle = random.uniform(0.2, 0.8, count), random.normal(0.0, 0.01, count)
    return _lines(middle, angle, length, random.uniform(1.5e-3, 9e-3, count))


def _laminate(random: np.random.Generator, count: int) -> Array:
    """Marks in all directions."""
    middle = random.uniform(-1.0, 1.0, (count, 2)) * (0.6, 0.5)
    angle, length = random.uniform(0.0, np.pi, count), random.uniform(0.004, 0.02, count)
    return _lines(middle, angle, length, random.uniform(2e-3, 8e-3, count))


def _grain(random: np.random.Generator, count: int) -> Array:
    return (_wood if random.random() < 0.5 else _laminate)(random, count)


MARKS: Mapping[str, Marks] = {
    "scratches": Marks(28, (0.1, 0.1), _holes_and_scratches, always=16),
    "grain": Marks(36, (0.75, 0.6), _grain, always=12),
    "wood": Marks(64, (0.75, 0.6), _wood, always=40),
    "laminate": Marks(64, (0.75, 0.6), _laminate, always=24),
}


def marks_mjcf(name: str) -> str:
    """Mesh asset of marks of a name in MARKS; their plane is z = 0, seen from above."""
    marks = MARKS[name]
    x, y = marks.half_m
    spread = np.linspace(-1.0, 1.0, 4 * marks.count)  # not all in one place, or the mesh has no area
    vertices = np.column_stack([x * spread, y * np.cos(9.0 * spread), np.zeros(len(spread))])
    faces = (_QUADRILATERAL + 4 * np.arange(marks.count)[:, None, None]).ravel()
    text = " ".join(str(index) for index in faces)
    return f'<mesh name="{name}" inertia="shell" smoothnormal="false" vertex="{numbers(vertices)}" face="{text}"/>'


def _write_vertices(model: Any, mesh: int, corners: Array) -> None:
    """Replace the vertices of a mesh by points (n, 2) on its plane; a compiled mesh has axes of its own."""
    points = np.column_stack([corners, np.zeros(len(corners))])
    turn = Rotation.from_quat(np.roll(model.mesh_quat[mesh], -1))
    start, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
    model.mesh_vert[start : start + count] = turn.inv().apply(points - model.mesh_pos[mesh])


TABLE_MARKS_MJCF = '<geom name="grain" type="mesh" mesh="grain" pos=".35 0 .0002" rgba=".5 .42 .33 1"/>'
"""On the table of `mjcf.TABLE_MJCF`."""

FIXTURE_MARKS_MJCF = (
    f'<geom name="scratches" type="mesh" mesh="scratches" pos="0 0 -.00015" euler="{np.pi:.9g} 0 0" '
    'rgba=".08 .08 .09 1"/>'
)
"""On a fixture whose z leads into it, and whose face is z = 0."""


def marked_fixture_and_table_mjcf() -> str:
    """Mesh assets of FIXTURE_MARKS_MJCF and TABLE_MARKS_MJCF."""
    return marks_mjcf("scratches") + marks_mjcf("grain")
