"""Looks of objects, table, fixture and light: what varies with the day, and that nothing of it touches."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import mujoco
import numpy as np
import pytest

from rldg_core.task import Task
from rldg_sim.cell import Cell
from rldg_sim.looks import MARKS
from rldg_sim.realism import presets
from rldg_sim.realism.presets import PRESETS, CellRealism, LooksRealism
from rldg_sim.scene import simulated
from rldg_sim.scenes.connector.connectors import CONNECTORS, MATING
from rldg_sim.scenes.connector.looks import ABOVE_TCP_M, LOOKS, overmould_m

UNSEEN = ("usb_c", "hdmi", "displayport", "xlr")
SIZE_PX = (96, 96)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Task]:
    """Return a task with a preset of these groups alone."""

    def make(task: Task, **groups: Any) -> Task:
        monkeypatch.setitem(presets.PRESETS, "bench", CellRealism(**groups))  # type: ignore[arg-type]
        return task.with_scene(realism="bench")

    return make


def drawn(task: Task, realism: str, name: str) -> Any:
    task = task.with_scene(realism=realism)
    return mujoco.MjModel.from_xml_string(simulated(task).model(task, name).drawn_mjcf())


def names(model: Any) -> set[str]:
    meshes = {model.mesh(k).name for k in range(model.nmesh)}
    return meshes | {model.body(k).name for k in range(model.nbody)}


@pytest.mark.parametrize("name", CONNECTORS)
def test_only_presets_that_are_not_ideal_draw_details(insertion: Task, name: str) -> None:
    new = {"cable", "surround", "fitting0", "grip0", "scratches", "grain"}
    assert not names(drawn(insertion, "ideal", name)) & new
    assert new <= names(drawn(insertion, "bench", name))


@pytest.mark.parametrize("name", CONNECTORS)
def test_nothing_that_is_drawn_touches_or_weighs(insertion: Task, name: str) -> None:
    model = drawn(insertion, "bench", name)
    assert not model.geom_contype.any() and not model.geom_conaffinity.any()
    assert model.body("cable").mass[0] == 0


def test_looks_change_no_physics(insertion: Task, only: Callable[..., Task]) -> None:
    ends = []
    for looks in (LooksRealism(), PRESETS["hard"].looks):
        cell = Cell(only(insertion, looks=looks), "usb_a", image_size_px=SIZE_PX)
        cell.reset(4)
        for k in range(20):
            frame = cell.step(np.full(insertion.action.dim, 0.4 * np.sin(k)))
        ends.append((frame, cell._simulation.data.qpos.copy()))
        cell.close()
    (plain, plain_qpos), (detailed, detailed_qpos) = ends
    np.testing.assert_array_equal(plain_qpos, detailed_qpos)
    np.testing.assert_array_equal(plain.wrench_tcp, detailed.wrench_tcp)
    assert plain.image is not None and detailed.image is not None
    assert np.abs(plain.image.astype(int) - detailed.image).mean() > 2


def test_looks_differ_by_day_and_repeat(insertion: Task, only: Callable[..., Task]) -> None:
    task = only(insertion, looks=PRESETS["bench"].looks)
    images = []
    for day in (1, 2, 1):
        cell = Cell(task, "hdmi", image_size_px=SIZE_PX, day=day)
        cell.reset(9)
        images.append(np.concatenate([cell.reset(3).image, cell.render_scene(*SIZE_PX)]).astype(int))
        cell.close()
    np.testing.assert_array_equal(images[0], images[2])
    assert np.abs(images[0] - images[1]).mean() > 2


def test_cable_leaves_the_hand_in_another_way_in_each_episode(insertion: Task, only: Callable[..., Task]) -> None:
    cell = Cell(only(insertion, looks=PRESETS["bench"].looks), "xlr", image_size_px=SIZE_PX)
    turns = []
    for seed in (1, 2, 1):
        cell.reset(seed)
        renderer = cell._simulation.renderer
        assert renderer is not None
        turns.append(2 * np.arcsin(renderer.model.body("cable").quat[3]))
    cell.close()
    assert turns[0] == turns[2] != turns[1]
    assert np.abs(turns).max() <= PRESETS["bench"].looks.cable_rad


def outline(model: Any, prefix: str) -> tuple[float, ...]:
    """Half extents [m] of all vertices of the meshes with a prefix, and their number."""
    points = []
    for k in range(model.nmesh):
        if model.mesh(k).name.startswith(prefix):
            start, count = model.mesh_vertadr[k], model.mesh_vertnum[k]
            rotation = np.zeros(9)
            mujoco.mju_quat2Mat(rotation, model.mesh_quat[k])
            points.append(model.mesh_vert[start : start + count] @ rotation.reshape(3, 3).T + model.mesh_pos[k])
    every = np.concatenate(points)
    return (*np.ptp(every, axis=0), len(every))


@pytest.mark.parametrize("prefix", ["grip", "surround"])
def test_unseen_connectors_differ_from_seen_ones_in_shape_and_colour(insertion: Task, prefix: str) -> None:
    seen = [name for name in CONNECTORS if name not in UNSEEN]
    models = {name: drawn(insertion, "bench", name) for name in CONNECTORS}
    for known, new in product(seen, UNSEEN):
        sizes = np.array([outline(models[name], prefix) for name in (known, new)])
        assert np.abs(sizes[0, :3] - sizes[1, :3]).max() > 1.5e-3, (known, new)
        geoms = "grip0" if prefix == "grip" else "surround"
        colours = np.array([models[name].geom(geoms).rgba for name in (known, new)])
        assert np.abs(colours[0] - colours[1]).max() > 0.1, (known, new)


@pytest.mark.parametrize("name", CONNECTORS)
def test_overmould_fits_between_the_fingers(name: str) -> None:
    """At the height of the pads, 7 mm around the tcp, it is nowhere wider than their distance."""
    length_m = overmould_m(MATING[name].grip_m)
    pads = (length_m - ABOVE_TCP_M - 0.007) / length_m
    for piece in LOOKS[name].overmould:
        low, high = piece.low, piece.high
        if high.part > pads:
            at = max(pads, low.part)
            width = np.interp(at, (low.part, high.part), (low.width, high.width))
            assert max(width, high.width) <= 1.05, (at, width)


@pytest.mark.parametrize("name", MARKS)
def test_marks_lie_within_their_plane_and_none_crosses_the_mouth_of_a_port(name: str) -> None:
    marks = MARKS[name]
    for seed in range(20):
        corners = marks.draw(np.random.default_rng(seed), marks.count)
        assert corners.shape == (marks.count, 4, 2)
        assert np.all(np.abs(corners) <= marks.half_m)
        (ux, uy), (vx, vy) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
        assert np.all(ux * vy > uy * vx), "seen from above"
        if name == "scratches":
            assert np.abs(corners).max(axis=2).min() > 0.028, "of the hole of FMB with its border, and any port"
