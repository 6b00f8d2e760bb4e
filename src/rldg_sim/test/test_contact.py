"""Contact of plug and port in the cell with errors: forces, penetration, jamming, energy, and the time step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rldg_core.frames import pose_at
from rldg_core.task import Task
from rldg_sim.cell import Cell
from rldg_sim.realism import presets
from rldg_sim.realism.presets import CellRealism, HandRealism
from rldg_sim.scenes.connector.connectors import CONNECTORS, MATING

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


@pytest.fixture
def mating_only(monkeypatch: pytest.MonkeyPatch, insertion: Task) -> Task:
    """Return the insertion task of a cell whose plugs are held exactly and resisted, without other errors."""
    monkeypatch.setitem(presets.PRESETS, "bench", CellRealism(hand=HandRealism(mating=1.0)))  # type: ignore[arg-type]
    scene = insertion.scene.model_copy(update={"realism": "bench", "grasp_xy_m": 0.0, "grasp_yaw_rad": 0.0})
    return insertion.model_copy(update={"scene": scene})


def above_port(task: Task, name: str, height_m: float) -> np.ndarray:
    """Pose (7,) of the tcp at which the shoulder of a plug is this high over the mouth of its port."""
    x, y, z = MATING[name].port_xyz_m
    pose = pose_at(task.target_pose_base_tcp, np.zeros(6))
    pose[:3] += [x, -y, z + MATING[name].grip_m - 0.02 + height_m]
    return pose


def inserted(cell: Cell, name: str) -> Cell:
    """Insert slowly and return the cell."""
    cell.reset(1)
    for height_m in np.concatenate([np.full(8, 0.012), np.arange(0.012, -0.007, -8e-4)]):
        frame = cell.step_to(above_port(cell.task, name, height_m))
    assert frame.success
    return cell


def test_episode_does_not_depend_on_the_friction_that_an_earlier_one_ended_with(mating_only: Task) -> None:
    used, fresh = inserted(Cell(mating_only, "vga", render=False), "vga"), Cell(mating_only, "vga", render=False)
    for cell in (used, fresh):
        cell.reset(2)
    for _ in range(2):
        left, right = (cell.step([0.3, 0.1, 0.5, 0.0, 0.0, 0.2]) for cell in (used, fresh))
        np.testing.assert_array_equal(left.joint_positions, right.joint_positions)


@pytest.mark.parametrize("name", CONNECTORS)
def test_withdrawal_needs_about_the_stated_force(mating_only: Task, name: str) -> None:
    cell = inserted(Cell(mating_only, name, render=False), name)
    pulled, depth = [], []
    for height_m in np.arange(-0.002, 0.02, 8e-4):
        frame = cell.step_to(above_port(cell.task, name, height_m))
        pulled.append(-frame.wrench_tcp[2])
        depth.append(frame.object_to_goal[2] / CONNECTORS[name].depth_m)
    assert depth[-1] < 0, "the plug came out"
    inside = [f for f, d, after in zip(pulled, depth, depth[1:], strict=False) if 0.1 < d < 0.9 and after < d - 0.02]
    assert len(inside) >= 2
    np.testing.assert_allclose(inside, MATING[name].withdrawal_n, atol=2.0)
