"""A plug enters its port in one orientation only (`scenes.connector.keys`), in the cell that is not ideal."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.frames import pose_at
from rldg_core.task import Task
from rldg_sim.cell import Cell
from rldg_sim.realism import presets
from rldg_sim.realism.presets import CellRealism, HandRealism
from rldg_sim.scene import simulated
from rldg_sim.scenes.connector.connectors import CONNECTORS, MATING

REVERSIBLE = {"usb_c"}
"""By its specification."""
INDENTATION_M = 0.1e-3


@pytest.fixture(scope="module")
def task(insertion: Task) -> Iterator[Task]:
    """Return the insertion task in `bench` with the forces of mating and no other error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "bench", CellRealism(hand=HandRealism(mating=1.0)))  # type: ignore[arg-type]
        yield insertion.with_scene(realism="bench", grasp_xy_m=0.0, grasp_yaw_rad=0.0)


def pressed_m(task: Task, name: str, turn_rad: float, x_m: float = 0.0, y_m: float = 0.0) -> tuple[float, bool]:
    """Press a plug that is turned in the hand straight down, with all force; return its greatest depth, and success."""
    cell = Cell(task, name, render=False)
    cell.reset(1)
    cell._simulation.model.body("plug").quat[:] = [math.cos(turn_rad / 2), 0.0, 0.0, math.sin(turn_rad / 2)]
    port_x, port_y, port_z = MATING[name].port_xyz_m
    target = pose_at(task.target_pose_base_tcp, np.zeros(6))
    target[:3] += [port_x + x_m, -port_y + y_m, port_z + MATING[name].grip_m - 0.02]
    deepest = -1.0
    for height_m in np.concatenate([np.full(8, 0.012), np.arange(0.012, -0.009, -8e-4)]):
        frame = cell.step_to(target + np.array([0.0, 0.0, height_m, 0.0, 0.0, 0.0, 0.0]))
        deepest = max(deepest, float(frame.object_to_goal[2]))
    cell.close()
    return deepest, frame.success


@pytest.mark.parametrize("name", CONNECTORS)
def test_right_orientation_goes_in(task: Task, name: str) -> None:
    deepest, success = pressed_m(task, name, 0.0)
    assert success and deepest > CONNECTORS[name].depth_m - 1e-4


@pytest.mark.parametrize("offset_m", [(0.0, 0.0), (8e-4, 5e-4), (-8e-4, 0.0)])
@pytest.mark.parametrize("name", sorted(set(CONNECTORS) - REVERSIBLE))
def test_half_turn_is_blocked_at_the_mouth(task: Task, name: str, offset_m: tuple[float, float]) -> None:
    deepest, success = pressed_m(task, name, math.pi, *offset_m)
    assert deepest < CONNECTORS[name].chamfer_m + INDENTATION_M and not success


@pytest.mark.parametrize("yaw_deg", [-8.0, 8.0])
@pytest.mark.parametrize("name", CONNECTORS)
def test_wrong_yaw_is_blocked_at_the_mouth(task: Task, name: str, yaw_deg: float) -> None:
    deepest, success = pressed_m(task, name, math.radians(yaw_deg))
    assert deepest < CONNECTORS[name].chamfer_m + INDENTATION_M and not success


@settings(max_examples=12, deadline=None)
@given(st.floats(8.0, 352.0), st.floats(-3e-4, 3e-4), st.floats(-3e-4, 3e-4))
def test_round_plug_enters_at_no_other_angle(task: Task, yaw_deg: float, x_m: float, y_m: float) -> None:
    deepest, _ = pressed_m(task, "xlr", math.radians(yaw_deg), x_m, y_m)
    assert deepest < CONNECTORS["xlr"].chamfer_m + INDENTATION_M


@pytest.mark.parametrize("name", ["usb_a", "xlr"])
def test_ideal_cell_has_no_key(task: Task, insertion: Task, name: str) -> None:
    ideal, bench = (
        mujoco.MjModel.from_xml_string(simulated(each).model(each, name).physics_mjcf()) for each in (insertion, task)
    )
    assert set(ideal.geom_contype) | set(ideal.geom_conaffinity) <= {0, 1}
    assert 2 in bench.geom_contype and 2 in bench.geom_conaffinity
