"""The cell as a library: geometry, contact, impedance, wrench, determinism, images."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core import frames
from rldg_core.errors import UserError
from rldg_core.frames import delta_between, pose_at
from rldg_core.task import Task
from rldg_sim import polygon, pose_math
from rldg_sim.cell import Cell, SensorFrame
from rldg_sim.mjcf import impedance_parameters
from rldg_sim.panda import LINKS
from rldg_sim.randomisation import start_pose
from rldg_sim.scene import simulated
from rldg_sim.scenes.connector import ConnectorScene
from rldg_sim.scenes.connector.connectors import CONNECTORS
from rldg_sim.scenes.connector.model import grasp_offset, port_pose_base

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


def descend(cell: Cell, offset: Any, seed: int = 3, steps: int = 60) -> SensorFrame:
    """Move above the port first, then down, at `offset` (x, y [m], roll, pitch, yaw [rad]) from the target."""
    task = cell.task
    frame = cell.reset(seed)
    height_m = 0.03
    for step in range(steps):
        height_m = max(height_m - 0.003, -0.006) if step > 20 else height_m
        x, y, *turn = offset
        goal = pose_at(task.target_pose_base_tcp, [x, y, height_m, *turn])
        frame = cell.step(task.action.from_delta_tcp(delta_between(frame.pose_base_tcp, goal)))
        if frame.success:
            break
    return frame


@pytest.mark.parametrize("name", CONNECTORS)
def test_aligned_plug_inserts_fully(steady: Task, name: str) -> None:
    cell = Cell(steady, name, render=False)
    frame = descend(cell, [0.0] * 5)
    assert frame.success
    # It stops on its shoulder, not at a numeric limit.
    for _ in range(5):
        frame = cell.step([0, 0, 1, 0, 0, 0])
    assert frame.success
    assert frame.object_to_goal[2] == pytest.approx(CONNECTORS[name].depth_m, abs=2e-4)
    np.testing.assert_allclose(frame.pose_base_tcp[:3], steady.target_pose_base_tcp[:3], atol=5e-4)


@pytest.mark.parametrize("name", CONNECTORS)
@pytest.mark.parametrize("offset", [(0.002, 0), (-0.002, 0), (0, 0.002), (0, -0.002)])
def test_plug_2_mm_beside_the_port_is_blocked(steady: Task, name: str, offset: tuple[float, float]) -> None:
    frame = descend(Cell(steady, name, render=False), [*offset, 0, 0, 0])
    assert not frame.success
    assert frame.object_to_goal[2] < 1e-3
    assert frame.wrench_tcp[2] > 5.0


@pytest.mark.parametrize("name", [n for n in CONNECTORS if n != "xlr"])
def test_rotated_plug_is_blocked(steady: Task, name: str) -> None:
    assert not descend(Cell(steady, name, render=False), [0, 0, 0, 0, 0.1]).success


@pytest.mark.parametrize("name", CONNECTORS)
def test_plug_with_a_shipped_grasp_inserts(insertion: Task, name: str) -> None:
    cell = Cell(insertion, name, render=False)
    assert all(descend(cell, [0.0] * 5, seed).success for seed in range(4))


def test_connectors_are_convex_distinct_and_within_the_documented_ranges() -> None:
    for item in CONNECTORS.values():
        assert polygon.is_convex(item.section)
        assert 0.1e-3 <= item.clearance_m <= 0.3e-3
        assert 0.3e-3 <= item.chamfer_m <= 0.6e-3
    for what in ("section", "plug_colour", "grip_colour", "port_colour"):
        values = [np.asarray(getattr(c, what)).ravel().tolist() for c in CONNECTORS.values()]
        distinct = {tuple(v) for v in values}
        assert len(distinct) == 7 if what in ("section", "port_colour", "grip_colour") else len(distinct) > 3


@given(st.sampled_from(list(CONNECTORS)), st.floats(-2e-4, 1e-3))
@settings(max_examples=30)
def test_offset_moves_every_side_by_the_distance(name: str, distance: float) -> None:
    section = CONNECTORS[name].section
    moved = polygon.offset(section, distance)
    normals = polygon.outward_normals(section)
    np.testing.assert_allclose(np.sum((moved - section) * normals, axis=1), distance, atol=1e-12)
    np.testing.assert_allclose(polygon.outward_normals(moved), normals, atol=1e-9)


def test_kinematics_equal_those_of_franka(steady: Task) -> None:
    """Franka documents x = 0.307 m of the end effector at its ready posture; limits are those of its tables."""
    cell = Cell(steady, render=False)
    model, data = cell._simulation.model, cell._simulation.data
    data.qpos[:] = [0, -np.pi / 4, 0, -3 * np.pi / 4, 0, np.pi / 2, np.pi / 4]
    frame = cell.advance(0.001)
    assert frame.pose_base_tcp[0] == pytest.approx(0.307, abs=2e-3)
    np.testing.assert_allclose(model.jnt_range, [link.limit for link in LINKS])
    assert model.body_subtreemass[model.body("link1").id] == pytest.approx(sum(x.mass_kg for x in LINKS) + 0.73 + 0.03)


def test_joint_limits_hold(steady: Task) -> None:
    wide = steady.safety_box.model_copy(update={"low": (-1.0,) * 6, "high": (1.0,) * 6})
    cell = Cell(steady.model_copy(update={"safety_box": wide}), render=False)
    frame = cell.reset(0)
    for _ in range(60):
        frame = cell.step([1, 0, -1, 0, 0, 0])
    low, high = np.array([link.limit for link in LINKS]).T
    assert np.all(frame.joint_positions > low - 0.02) and np.all(frame.joint_positions < high + 0.02)
    assert np.all(np.isfinite(frame.pose_base_tcp))


def test_arm_at_rest_neither_moves_nor_measures_a_wrench(steady: Task) -> None:
    cell = Cell(steady, render=False)
    first = cell.reset(4)
    last = [cell.step(np.zeros(6)) for _ in range(10)][-1]
    np.testing.assert_allclose(last.pose_base_tcp, first.pose_base_tcp, atol=1e-6)
    assert np.abs(last.wrench_tcp).max() < 1e-9


@pytest.mark.parametrize("press_m", [0.002, 0.005])
def test_wrench_is_stiffness_times_error_and_positive_when_pressing(steady: Task, press_m: float) -> None:
    """libfranka: forces applied by the robot to the environment are positive."""
    cell = Cell(steady, render=False)
    frame = descend(cell, [0.02, 0, 0, 0, 0])
    target = pose_at(frame.pose_base_tcp, [0, 0, -press_m, 0, 0, 0])
    frame = [cell.step_to(target) for _ in range(10)][-1]
    assert frame.wrench_tcp[2] == pytest.approx(2000 * press_m, rel=0.05)
    assert np.abs(frame.wrench_tcp[:2]).max() < 1.0


def test_torque_is_about_the_tcp(steady: Task) -> None:
    """A plug that touches the right wall of its port with its tip measures force times distance from the tcp."""
    cell = Cell(steady, "vga", render=False)
    frame = descend(cell, [0.0] * 5)
    target = pose_at(frame.pose_base_tcp, [0, 0.004, 0, 0, 0, 0])
    frame = [cell.step_to(target) for _ in range(10)][-1]
    force, torque = frame.wrench_tcp[:3], frame.wrench_tcp[3:]
    # Base y is minus tcp y. The contacts lie 20 to 26 mm below the tcp.
    assert force[1] < -2.0
    lever_m = -torque[0] / force[1]
    assert 0.015 < lever_m < 0.03


@pytest.mark.parametrize(("mode", "limit_n"), [("compliant", 16.0), ("precise", 20.0)])
def test_error_clip_limits_the_force(steady: Task, mode: Any, limit_n: float) -> None:
    cell = Cell(steady, render=False)
    frame = descend(cell, [0.02, 0, 0, 0, 0])
    cell.set_mode(mode)
    target = pose_at(frame.pose_base_tcp, [0, 0, -0.018, 0, 0, 0])
    frame = [cell.step_to(target) for _ in range(10)][-1]
    assert frame.wrench_tcp[2] == pytest.approx(limit_n, rel=0.05)


def test_gains_are_those_of_the_task(steady: Task) -> None:
    bias, limits = impedance_parameters(steady.impedance.compliant)
    assert bias[:6, 1].tolist() == [-2000] * 3 + [-150] * 3
    assert bias[6:, 2].tolist() == [-89] * 3 + [-7] * 3
    assert limits[:6, 1].tolist() == pytest.approx([16] * 3 + [3] * 3)
    model: Any = mujoco.MjModel.from_xml_string(simulated(steady).model(steady, "vga").physics_mjcf())
    np.testing.assert_allclose(model.actuator_biasprm[:, :3], bias)
    np.testing.assert_allclose(model.actuator_forcerange, limits)
    assert model.opt.timestep == 0.001


def test_free_motion_reaches_its_target(steady: Task) -> None:
    cell = Cell(steady, render=False)
    cell.reset(1)
    target = pose_at(steady.target_pose_base_tcp, [0.01, -0.02, 0.04, 0, 0.02, 0.05])
    frame = [cell.step_to(target) for _ in range(30)][-1]
    assert np.abs(delta_between(frame.pose_base_tcp, target)).max() < 5e-4


def test_action_is_a_delta_in_tcp_axes_clipped_to_the_box(steady: Task) -> None:
    cell = Cell(steady, render=False)
    cell.reset(1)
    for _ in range(20):
        frame = cell.step([0, 0, -1, 0, 0, 0])
    assert frame.pose_base_tcp[2] == pytest.approx(steady.target_pose_base_tcp[2] + 0.05, abs=1e-3)


unit = st.floats(-1, 1)


@given(st.lists(unit, min_size=6, max_size=6), st.lists(unit, min_size=6, max_size=6))
@settings(max_examples=50)
def test_pose_difference_equals_that_of_rldg_core(insertion: Task, first: list[float], second: list[float]) -> None:
    start = pose_at(insertion.target_pose_base_tcp, np.array(first) * [0.1, 0.1, 0.1, 0.3, 0.3, 0.3])
    delta = np.array(second) * [0.05, 0.05, 0.05, 0.3, 0.3, 0.3]
    composed = frames.compose_delta(start, delta)
    moved = pose_math.difference(start, composed)
    np.testing.assert_allclose(moved[:3], composed[:3] - start[:3], atol=1e-12)
    np.testing.assert_allclose(moved[3:], frames.rotation_of(start).apply(delta[3:]), atol=1e-9)


def same(first: SensorFrame, second: SensorFrame) -> bool:
    numbers = [f.name for f in fields(SensorFrame) if f.name != "images"]
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in numbers) and all(
        np.array_equal(first.images[name], second.images[name]) for name in first.images | second.images
    )


def test_same_seed_repeats_bit_for_bit_independent_of_earlier_episodes(insertion: Task) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (15, 6))

    def run(cell: Cell, seed: int) -> list[SensorFrame]:
        return [cell.reset(seed), *(cell.step(a) for a in actions)]

    fresh = run(Cell(insertion, image_size_px=(64, 64)), 5)
    used = Cell(insertion, image_size_px=(64, 64))
    run(used, 6)
    used.reset(6, "xlr")
    used.reset(5, "vga")
    assert all(map(same, fresh, run(used, 5)))
    assert not any(map(same, fresh, run(used, 7)))


def test_start_poses_and_grasps_cover_their_ranges(insertion: Task) -> None:
    starts = np.array([start_pose(insertion, seed) for seed in range(200)])
    offsets = starts[:, :3] - np.array(insertion.reset.pose_base_tcp[:3])
    assert np.abs(offsets).max() <= 0.05 + 1e-9 and np.abs(offsets[:, :2]).max() > 0.045
    scene = insertion.scene
    assert isinstance(scene, ConnectorScene)
    grasps = np.array([grasp_offset(scene.grasp_xy_m, scene.grasp_yaw_rad, seed) for seed in range(200)])
    half = np.array([scene.grasp_xy_m, scene.grasp_xy_m, scene.grasp_yaw_rad])
    assert np.all(np.abs(grasps) <= half) and np.all(np.abs(grasps).max(axis=0) > 0.9 * half)
    cell = Cell(insertion, render=False)
    frame = cell.reset(3)
    port = port_pose_base(insertion)
    tip = port[:3] + frames.rotation_of(port).apply(frame.object_to_goal[:3])
    tip_in_tcp = frames.rotation_of(frame.pose_base_tcp).inv().apply(tip - frame.pose_base_tcp[:3])
    np.testing.assert_allclose(tip_in_tcp[:2], grasp_offset(scene.grasp_xy_m, scene.grasp_yaw_rad, 3)[:2], atol=1e-9)
    np.testing.assert_allclose(frame.pose_base_tcp, start_pose(insertion, 3), atol=1e-6)


def test_appearance_varies_only_with_the_seed(insertion: Task, steady: Task) -> None:
    def image(task: Task, seed: int) -> Any:
        still = task.model_copy(update={"reset": task.reset.model_copy(update={"xy_m": 0.0, "yaw_rad": 0.0})})
        return Cell(still, image_size_px=(64, 64)).reset(seed).image

    assert np.array_equal(image(steady, 1), image(steady, 2))
    assert not np.array_equal(image(insertion, 1), image(insertion, 2))


@pytest.mark.parametrize("name", CONNECTORS)
def test_port_is_seen_at_half_a_millimetre_per_pixel(steady: Task, name: str) -> None:
    """From 5 cm above, the rim of the port spans its width / 0.4 .. 0.65 mm of pixels in an image of 224 pixels."""
    item = CONNECTORS[name]
    still = steady.model_copy(update={"reset": steady.reset.model_copy(update={"xy_m": 0.0, "yaw_rad": 0.0})})
    cell = Cell(still, name, image_size_px=(224, 224))
    image = cell.reset(0).image
    assert image is not None and image.shape == (224, 224, 3) and image.dtype == np.uint8
    drawing = cell._simulation.renderer
    assert drawing is not None
    drawing.model.geom("rim").rgba[:] = [1, 0, 1, 1]
    changed = np.any(cell.image() != image, axis=2)
    width_mm = 2e3 * (item.extent_m[1] + item.clearance_m + item.chamfer_m + 0.8e-3)
    columns = np.flatnonzero(changed.any(axis=0))
    assert 0.4 < width_mm / (columns[-1] - columns[0] + 1) < 0.65


def test_plug_is_visible_until_it_is_inserted(steady: Task) -> None:
    cell = Cell(steady, "vga", image_size_px=(128, 128))
    for frame in (cell.reset(0), descend(cell, [0.0] * 5)):
        drawing = cell._simulation.renderer
        assert drawing is not None and frame.image is not None
        drawing.model.geom("grip").rgba[:] = [0, 1, 0, 1]
        assert np.any(cell.image() != frame.image, axis=2).sum() > 200
        drawing.model.geom("grip").rgba[:] = drawing.looks.geom_rgba[drawing.model.geom("grip").id]


def test_scene_view_has_the_requested_size(steady: Task) -> None:
    cell = Cell(steady, render=False)
    cell.reset(0)
    image = cell.render_scene(160, 120)
    assert image.shape == (120, 160, 3) and image.std() > 10


def test_time_and_twist_are_those_of_the_motion(steady: Task) -> None:
    cell = Cell(steady, render=False)
    frames_ = [cell.reset(1), *(cell.step([0, 0, 0.3, 0, 0, 0]) for _ in range(3))]
    assert [f.stamp_ns for f in frames_] == [0, 100_000_000, 200_000_000, 300_000_000]
    for before, after in pairwise(frames_):
        mean = (after.pose_base_tcp[2] - before.pose_base_tcp[2]) / 0.1
        assert mean < 0 and after.twist_base_tcp[2] < 0
    fine = [cell.advance(0.001) for _ in range(2)]
    velocity = (fine[1].pose_base_tcp[:3] - fine[0].pose_base_tcp[:3]) / 0.001
    np.testing.assert_allclose(fine[1].twist_base_tcp[:3], velocity, atol=1e-3)


def test_unknown_object_is_refused(insertion: Task) -> None:
    with pytest.raises(UserError, match="unknown object 'hdmi2'"):
        Cell(insertion, "hdmi2")
    objects = {**insertion.objects, "banana": insertion.objects["vga"]}
    with pytest.raises(UserError, match="no such connector"):
        Cell(insertion.model_copy(update={"objects": objects}), "banana")
    far = insertion.reset.model_copy(update={"pose_base_tcp": (1.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0)})
    with pytest.raises(UserError, match="out of the arm's reach"):
        Cell(insertion.model_copy(update={"reset": far}))


def test_missing_opengl_is_refused_with_the_package_to_install(tmp_path: Any) -> None:
    """A GL vendor that does not exist stands for a machine without libegl1."""
    code = (
        "from pathlib import Path\nfrom rldg_core.task import find_task\nfrom rldg_core.errors import UserError\n"
        "from rldg_sim.cell import Cell\n"
        f"task = find_task('insertion', [Path({str(TASKS)!r})])\n"
        "try:\n    Cell(task).reset(0)\nexcept UserError as error:\n    print(error)\n"
    )
    (tmp_path / "none.json").write_text('{"file_format_version": "1.0.0", "ICD": {"library_path": "libnone.so"}}')
    environment = {**os.environ, "MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) == 1, done.stdout + done.stderr
    assert "apt-get install libegl1 libgles2 libgl1-mesa-dri" in lines[0] and "MUJOCO_GL=egl" in lines[0]
