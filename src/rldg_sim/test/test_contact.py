"""Contact of plug and port in the cell with errors: forces, penetration, jamming, energy, and the time step."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

from rldg_core.frames import pose_at
from rldg_core.task import Task
from rldg_sim.cavity import EDGE_RADIUS_M
from rldg_sim.cell import Cell
from rldg_sim.mjcf import PHYSICS_STEP_S, held_physics_mjcf
from rldg_sim.realism import presets
from rldg_sim.realism.errors import CHUNK_STEPS, CONTACT_S
from rldg_sim.realism.presets import CellRealism, HandRealism
from rldg_sim.scenes.connector.connectors import CONNECTORS, MATING
from rldg_sim.scenes.connector.port import plug_contacts, port_contacts

Array = NDArray[np.float64]

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


@pytest.fixture
def mating_only(monkeypatch: pytest.MonkeyPatch, insertion: Task) -> Task:
    """Return the insertion task of a cell whose plugs are held exactly and resisted, without other errors."""
    monkeypatch.setitem(presets.PRESETS, "bench", CellRealism(hand=HandRealism(mating=1.0)))  # type: ignore[arg-type]
    return insertion.with_scene(realism="bench", grasp_xy_m=0.0, grasp_yaw_rad=0.0)


def above_port(task: Task, name: str, height_m: float) -> Array:
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


# --- penetration --------------------------------------------------------------------------------


def test_plug_sinks_into_its_port_by_hundredths_of_a_millimetre(insertion: Task) -> None:
    cell = Cell(insertion.with_scene(realism="bench"), "vga", render=False)
    data, depths_m = cell._simulation.data, []
    for seed in range(3):
        cell.reset(seed)
        # Down onto the port, and there pressed and turned about.
        for k in range(40):
            cell.hold(above_port(cell.task, "vga", 0.004 - min(k, 20) * 8e-4 + 2e-3 * np.sin(k)))
            for _ in range(10):
                cell.advance(0.01)
                depths_m += [-data.contact[i].dist for i in range(data.ncon)]
    assert len(depths_m) > 100
    assert np.percentile(depths_m, 99) < 5e-5


# --- a plug alone, held at a tilt by a rig, pushed into its port ----------------------------------

FORCE_N = 5.0
APPARENT_MASS_KG = 3.0
"""About what the arm's is at its tcp; the stiffness of a contact grows with it."""


def rig(task: Task, name: str, tilt_rad: float, friction: float) -> tuple[Any, Any]:
    """Return model and data of a plug that slides without turning, tilted about y, over the mouth of its port."""
    item = CONNECTORS[name]
    hull = np.abs(item.section[:, 0]).max()
    defaults = re.search(r"<default>.*</default>", held_physics_mjcf(task, "", "")).group()  # type: ignore[union-attr]
    model = mujoco.MjModel.from_xml_string(f"""
    <mujoco>
      <option timestep="{PHYSICS_STEP_S}" cone="elliptic"><flag gravity="disable"/></option>
      {defaults}
      <worldbody>
        {port_contacts(item)}
        <body name="plug" pos="{-item.depth_m * np.sin(tilt_rad)} 0 {-item.depth_m - hull * np.sin(tilt_rad)}">
          <joint type="slide" axis="1 0 0" damping="20"/><joint type="slide" axis="0 1 0" damping="20"/>
          <joint type="slide" axis="0 0 1" damping="200"/>
          <inertial pos="0 0 0" mass="{APPARENT_MASS_KG}" diaginertia="1e-4 1e-4 1e-4"/>
          <body quat="{np.cos(tilt_rad / 2)} 0 {np.sin(tilt_rad / 2)} 0">{plug_contacts(item)}</body>
        </body>
      </worldbody>
    </mujoco>""")
    model.geom_solref[:, 0] = CONTACT_S
    model.geom_friction[:, 0] = friction
    return model, mujoco.MjData(model)


def pushed_m(task: Task, name: str, tilt_rad: float, friction: float = 0.0) -> float:
    """Depth of the middle of the tip after a push along the port's axis."""
    model, data = rig(task, name, tilt_rad, friction)
    data.qfrc_applied[2] = FORCE_N
    # Sideways it finds its way by itself: the lead-in and the walls push it.
    mujoco.mj_step(model, data, nstep=1500)
    assert abs(data.qvel[2]) < 1e-3, "at rest"
    return float(data.body("plug").xpos[2] + CONNECTORS[name].depth_m * np.cos(tilt_rad))


def two_point_limit_m(name: str, tilt_rad: float) -> float:
    """Depth of the middle of the tip at which a plug touches both walls: the lower edge of its rounded tip one of them,
    its side the upper end of the other, where the lead-in ends."""
    item = CONNECTORS[name]
    width, radius = 2 * item.extent_m[0], EDGE_RADIUS_M
    hole = width + 2 * item.clearance_m
    slack = hole * np.cos(tilt_rad) - width + radius * (1 - np.cos(tilt_rad))
    edge = item.chamfer_m + slack / np.sin(tilt_rad)
    return float(edge + radius * np.cos(tilt_rad) + (width / 2 - radius) * np.sin(tilt_rad))


@pytest.mark.parametrize("name", ["usb_a", "hdmi"])
@pytest.mark.parametrize("tilt_rad", [0.1, 0.15, 0.2])
def test_tilted_plug_goes_in_as_deep_as_two_point_contact_lets_it(insertion: Task, name: str, tilt_rad: float) -> None:
    limit = two_point_limit_m(name, tilt_rad)
    assert limit < 0.8 * CONNECTORS[name].depth_m
    assert pushed_m(insertion, name, tilt_rad) == pytest.approx(limit, abs=1.5e-4)


@pytest.mark.parametrize("name", ["usb_a", "hdmi"])
def test_more_tilt_less_depth_and_friction_jams_no_deeper(insertion: Task, name: str) -> None:
    tilts = (0.0, 0.06, 0.1, 0.15, 0.2)
    free = [pushed_m(insertion, name, tilt) for tilt in tilts]
    rubbing = [pushed_m(insertion, name, tilt, friction=0.25) for tilt in tilts]
    assert free[0] == pytest.approx(CONNECTORS[name].depth_m, abs=1e-4)
    for depths in (free, rubbing):
        assert all(deep >= shallow - 2e-5 for deep, shallow in pairwise(depths))
    assert all(f >= r - 5e-5 for f, r in zip(free, rubbing, strict=True))
    assert free[-1] < 0.5 * free[0]


# --- energy -------------------------------------------------------------------------------------


def passive(cell: Cell, speed_m_s: float) -> tuple[Array, Array]:
    """Let go of a moving arm: (n,) kinetic energy [J] and depth of the tip [m] over time.

    Nothing drives it and nothing stores energy but contacts; nothing takes any but contacts and the plug's friction.
    """
    simulation = cell._simulation
    model, data = simulation.model, simulation.data
    model.actuator_biasprm[:] = 0.0
    model.dof_damping[:] = 0.0
    jacobian = np.zeros((6, model.nv))
    mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], simulation.tcp)
    data.qvel[:] = np.linalg.pinv(jacobian) @ np.array([0.0, 0.0, speed_m_s, 0.0, 0.0, 0.0])
    energy, depth, momentum = [], [], np.zeros(model.nv)
    for _ in range(150):
        mujoco.mj_forward(model, data)
        mujoco.mj_mulM(model, data, momentum, data.qvel)
        energy.append(0.5 * float(data.qvel @ momentum))
        depth.append(simulation.scene.truth(model, data).object_to_goal[2])
        simulation.advance(1)
    return np.array(energy), np.array(depth)


@pytest.mark.parametrize("name", ["usb_a", "ethernet", "displayport"])
@pytest.mark.parametrize("outwards", [False, True])
def test_friction_of_mating_takes_energy_and_never_gives_any(mating_only: Task, name: str, outwards: bool) -> None:
    cell = Cell(mating_only, name, render=False)
    if outwards:
        inserted(cell, name)
    else:
        cell.reset(1)
        for _ in range(12):
            cell.step_to(above_port(mating_only, name, CONNECTORS[name].depth_m + 1e-3))
    energy, depth = passive(cell, 0.25 if outwards else -0.25)
    start = energy[0]
    assert np.diff(energy).max() < 0.01 * start
    assert (energy - np.minimum.accumulate(energy)).max() < 0.03 * start, "no more than a plug springs back"
    in_port = np.clip(depth, 0.0, CONNECTORS[name].depth_m)
    way_m = np.abs(np.diff(in_port)).sum()
    assert way_m > 0.9 * CONNECTORS[name].depth_m
    # The friction has worked along the way that the plug went in its port.
    assert start - energy.min() > 0.7 * MATING[name].force_n(0.5, outwards) * way_m


# --- time step ----------------------------------------------------------------------------------


def test_half_the_time_step_changes_the_force_of_insertion_by_little(
    mating_only: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def force_n(cell: Cell) -> Array:
        cell.reset(1)
        heights_m = np.concatenate([np.full(8, 0.012), np.arange(0.012, -0.007, -8e-4)])
        return np.array([cell.step_to(above_port(cell.task, "ethernet", h)).wrench_tcp[2] for h in heights_m])

    whole = force_n(Cell(mating_only, "ethernet", render=False))
    for module in ("mjcf", "cell", "realism.errors"):
        monkeypatch.setattr(f"rldg_sim.{module}.PHYSICS_STEP_S", PHYSICS_STEP_S / 2)
    monkeypatch.setattr("rldg_sim.realism.errors.CHUNK_STEPS", 2 * CHUNK_STEPS)
    halved_cell = Cell(mating_only, "ethernet", render=False)
    halved = force_n(halved_cell)
    assert halved_cell._simulation.model.opt.timestep == PHYSICS_STEP_S / 2
    assert whole.max() > 9.0
    assert halved.max() == pytest.approx(whole.max(), rel=0.05)
    assert np.median(np.abs(halved - whole)) < 0.1
