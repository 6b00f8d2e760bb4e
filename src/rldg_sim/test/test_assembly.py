"""Assembly: a free peg is grasped, carried and inserted; ground truth and failure; the scripted operator does
it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rldg_core.task import Task, find_task
from rldg_sim.cell import Cell
from rldg_sim.episodes import ask
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.scene import make_operator

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


@pytest.fixture(scope="module")
def task() -> Task:
    return find_task("fmb_assembly", [TASKS])


@pytest.fixture(scope="module")
def cell(task: Task) -> Iterator[Cell]:
    cell = Cell(task, render=False)
    yield cell
    cell.close()


def test_peg_stands_still_until_it_is_touched(cell: Cell) -> None:
    first = cell.reset(5)
    for _ in range(10):
        frame = cell.step(np.zeros(7))
    assert np.linalg.norm(frame.object_to_goal[:3] - first.object_to_goal[:3]) < 1e-3
    assert not frame.failure and frame.gripper_width_m == pytest.approx(0.08)


def test_placements_fill_the_region_around_20_cm_from_the_board(cell: Cell, task: Task) -> None:
    ways = np.array([cell.reset(seed).object_to_goal[:3] for seed in range(40)])
    distances = np.linalg.norm(ways[:, :2], axis=1)
    assert distances.min() > 0.15 and distances.max() < 0.29
    assert ways[:, 2] == pytest.approx(0.03, abs=2e-3), "the tip stands on the table, 3 cm below the hole"


def test_fallen_or_lost_peg_is_a_failure_and_an_inserted_one_a_success(cell: Cell) -> None:
    frame = cell.reset(2)
    data, model = cell._simulation.data, cell._simulation.model
    stands = data.qpos[9:16].copy()
    board = model.body("board")
    turn = Rotation.from_quat(np.roll(board.quat, -1))
    inserted = np.concatenate([board.pos + turn.apply([0, 0, 0.03 - 0.045]), board.quat])
    lying = np.concatenate([stands[:2], [0.03], np.roll((Rotation.from_euler("y", np.pi / 2)).as_quat(), 1)])
    away = np.concatenate([[0.5, 0.4], stands[2:]])
    for qpos, outcome in (
        (lying, (False, True)),
        (away, (False, True)),
        (inserted, (True, False)),
        (stands, (False,) * 2),
    ):
        data.qpos[9:16] = qpos
        frame = cell._frame(render=False)
        assert (frame.success, frame.failure) == outcome


def test_operator_grasps_carries_and_inserts(cell: Cell, task: Task) -> None:
    operator = make_operator(OperatorConfig(), task)
    results, in_hand = [], []
    for seed in range(4):
        frame = cell.reset(seed)
        operator.reset(seed)
        for _ in range(task.episode.max_steps):
            action, active = ask(operator, frame)
            assert active and action.shape == (7,)
            frame = cell.step(action)
            if frame.success or frame.failure:
                break
        results.append(frame.success)
        in_hand.append(frame.object_to_tcp[[0, 2]])
    assert sum(results) >= 3
    assert np.ptp(np.array(in_hand)[:, 0]) > 5e-4, "the grasped pose varies"


def test_peg_is_visible_at_the_start(task: Task) -> None:
    cell = Cell(task.with_scene(light=0.0, colour=0.0), image_size_px=(128, 128))
    for seed in range(15):
        red, green, blue = cell.reset(seed).image.astype(int).transpose(2, 0, 1)
        assert np.sum((red > 2.5 * green) & (red > 2.5 * blue)) > 50, seed
    cell.close()
