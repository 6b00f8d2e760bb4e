"""Pepper and corn where the cell is not ideal: contact shapes, mass and friction, and that they can be grasped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from rldg_core.task import Task, find_task
from rldg_sim.cell import Cell
from rldg_sim.episodes import ask
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.realism import presets
from rldg_sim.realism.presets import PRESETS, CellRealism
from rldg_sim.scene import make_operator, simulated
from rldg_sim.scenes.pick_and_place.produce import PRODUCE

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """Return Pick and Place with `bench` objects and looks, without its errors."""
    monkeypatch.setitem(presets.PRESETS, "bench", CellRealism(looks=PRESETS["bench"].looks))  # type: ignore[arg-type]
    return find_task("pick_and_place", [TASKS]).with_scene(realism="bench")


def physics(task: Task, realism: str, name: str) -> Any:
    task = task.with_scene(realism=realism)
    return mujoco.MjModel.from_xml_string(simulated(task).model(task, name).physics_mjcf())


@pytest.mark.parametrize("name", PRODUCE)
def test_object_has_its_shape_and_mass_and_the_ideal_one_is_one_capsule(task: Task, name: str) -> None:
    ideal, model = physics(task, "ideal", name), physics(task, "bench", name)
    assert ideal.body("object").geomnum[0] == 1
    assert model.body("object").geomnum[0] == PRODUCE[name].lobes
    assert model.body("object").mass[0] == pytest.approx(PRODUCE[name].mass_kg)
    first = int(model.body("object").geomadr[0])
    assert model.geom_friction[first, 0] == PRODUCE[name].friction
    assert model.geom_priority[first] > model.geom("pad_left").priority[0], "its friction holds on the pads, too"


def test_pepper_and_corn_differ_in_shape_mass_and_friction() -> None:
    pepper, corn = PRODUCE["green_pepper"], PRODUCE["yellow_corn"]
    lengths, widths = (
        [item.tip_x_m - item.foot_x_m + 2 * item.radius_m for item in (pepper, corn)],
        [2 * (max(item.foot_m, item.tip_m) + item.radius_m) for item in (pepper, corn)],
    )
    assert lengths[1] > 1.5 * lengths[0] and widths[0] > 1.2 * widths[1]
    assert corn.mass_kg > 1.2 * pepper.mass_kg and corn.friction > 1.2 * pepper.friction


@pytest.mark.parametrize("name", PRODUCE)
def test_object_rests_where_it_is_put(task: Task, name: str) -> None:
    cell = Cell(task, name, render=False)
    cell.reset(5)
    data = cell._simulation.data
    before = data.qpos[9:16].copy()
    cell.advance(1.0)
    assert np.linalg.norm(data.qpos[9:12] - before[:3]) < 3e-4
    assert np.abs(data.qpos[12:16] - before[3:]).max() < 2e-3
    cell.close()


@pytest.mark.parametrize("name", PRODUCE)
def test_operator_puts_the_object_into_the_bowl(task: Task, name: str) -> None:
    cell, operator = Cell(task, name, render=False), make_operator(OperatorConfig(), task)
    successes = 0
    for seed in range(4):
        frame = cell.reset(seed)
        operator.reset(seed)
        for _ in range(task.episode.max_steps):
            frame = cell.step(ask(operator, frame)[0])
            if frame.success or frame.failure:
                break
        successes += frame.success
    cell.close()
    assert successes >= 3


@pytest.mark.parametrize("name", PRODUCE)
def test_object_is_seen_at_the_start_and_the_day_changes_the_table(task: Task, name: str) -> None:
    def look(day: int) -> np.ndarray:
        cell = Cell(task, name, image_size_px=(96, 96), day=day)
        images = np.array([cell.reset(seed).image for seed in range(6)]).astype(int)
        cell.close()
        return images

    first = look(1)
    red, green, blue = np.moveaxis(first, -1, 0)
    pepper = (green > 1.4 * red) & (green > 1.4 * blue)
    corn = (red > 2.2 * blue) & (green > 1.6 * blue)
    seen = pepper if name == "green_pepper" else corn
    assert np.sum(seen, axis=(1, 2)).min() > 30
    np.testing.assert_array_equal(first, look(1))
    assert np.abs(first - look(2)).mean() > 2
