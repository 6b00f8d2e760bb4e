"""Errors of the simulated cell: presets, what changes with day, episode and frame, and the forces of mating."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.frames import pose_at
from rldg_core.scenes import Realism
from rldg_core.task import Task, find_task
from rldg_sim.cell import Cell, SensorFrame
from rldg_sim.realism import presets
from rldg_sim.realism.arm import ArmErrors
from rldg_sim.realism.camera import CameraErrors, PastStates
from rldg_sim.realism.presets import PRESETS, CellRealism, HandRealism
from rldg_sim.realism.sensors import SensorErrors
from rldg_sim.scenes.connector.connectors import CONNECTORS, MATING

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"
MAX_N = {"usb_a": 35.0, "ethernet": 20.0, "vga": 51.0, "usb_c": 20.0, "hdmi": 44.1, "displayport": 44.1, "xlr": 20.0}
"""Published upper limits of the insertion force [N]; sources in connectors.MATING."""


@pytest.fixture
def bench(insertion: Task) -> Task:
    return insertion.with_scene(realism="bench")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch, insertion: Task) -> Callable[..., Task]:
    """Return the task with a preset of these groups alone."""

    def make(**groups: Any) -> Task:
        monkeypatch.setitem(presets.PRESETS, "bench", CellRealism(**groups))  # type: ignore[arg-type]
        return insertion.with_scene(realism="bench")

    return make


def same(left: SensorFrame, right: SensorFrame) -> bool:
    arrays = ("pose_base_tcp", "wrench_tcp", "twist_base_tcp", "joint_positions", "object_to_goal")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in arrays) and all(
        np.array_equal(left.images[name], right.images[name]) for name in left.images
    )


def roll(cell: Cell, seed: int, steps: int = 4) -> list[SensorFrame]:
    dim = cell.task.action.dim
    return [cell.reset(seed), *(cell.step(np.full(dim, 0.3 * np.sin(k))) for k in range(steps))]


def test_ideal_preset_switches_everything_off_and_hard_is_worse_than_bench() -> None:
    ideal, bench, hard = (list(PRESETS[name].rows()) for name in ("ideal", "bench", "hard"))
    assert all(value == 0 for _, value, _ in ideal)
    assert all(0 < easy <= difficult for (_, easy, _), (_, difficult, _) in zip(bench, hard, strict=True))
    assert all(meaning for _, _, meaning in bench)


def test_realism_is_part_of_the_configuration_hash_and_bench_is_the_default(insertion: Task, bench: Task) -> None:
    assert bench.config_hash() != insertion.config_hash()
    assert bench.config_hash() == find_task("insertion", [TASKS]).config_hash()


def test_day_has_no_effect_in_the_ideal_cell(insertion: Task) -> None:
    first, second = Cell(insertion, day=1), Cell(insertion, day=2)
    assert all(same(a, b) for a, b in zip(roll(first, 5), roll(second, 5), strict=True))


@pytest.mark.parametrize("task", ["insertion", "pick_and_place", "fmb_assembly", "fmb_insertion"])
def test_same_seed_and_day_give_the_same_frames_independent_of_earlier_episodes(task: str) -> None:
    bench = find_task(task, [TASKS]).with_scene(realism="bench")
    fresh, used = Cell(bench, day=3), Cell(bench, day=3)
    roll(used, 9, steps=2)
    frames = roll(fresh, 5)
    assert all(same(a, b) for a, b in zip(frames, roll(used, 5), strict=True))
    assert not same(frames[-1], roll(Cell(bench, day=4), 5)[-1])


def test_fixture_is_displaced_by_the_errors_of_the_day() -> None:
    arm, fixture = PRESETS["bench"].arm, pose_at([0.5, 0.0, 0.15, 1.0, 0.0, 0.0, 0.0], np.zeros(6))
    days = np.array([ArmErrors(arm, day, fixture).to_base(fixture)[:3] for day in range(300)])
    np.testing.assert_allclose((days - fixture[:3]).std(axis=0), arm.fixture_m, rtol=0.15)
    turns = np.array([ArmErrors(arm, day, fixture).world_in_base[3:6] * 2 for day in range(300)])
    np.testing.assert_allclose(turns.std(axis=0), arm.fixture_rad, rtol=0.15)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6))
def test_poses_in_base_and_in_the_world_are_inverse(day: int, offset: list[float]) -> None:
    fixture = np.array([0.5, 0.0, 0.15, 1.0, 0.0, 0.0, 0.0])
    arm = ArmErrors(PRESETS["hard"].arm, day, fixture)
    pose = pose_at(fixture, offset)
    back = arm.to_world(arm.to_base(pose))
    np.testing.assert_allclose(back[:3], pose[:3], atol=1e-12)
    assert abs(float(back[3:] @ pose[3:])) == pytest.approx(1.0, abs=1e-12)


def test_arm_rests_beside_its_target(bench: Task, insertion: Task) -> None:
    def miss_m(task: Task, day: int) -> float:
        cell, target = Cell(task, render=False, day=day), np.array(task.reset.pose_base_tcp)
        cell.reset(1)
        for _ in range(15):
            frame = cell.step_to(target)
        return float(np.linalg.norm(frame.pose_base_tcp[:3] - target[:3]))

    assert miss_m(insertion, 0) < 5e-5
    misses = [miss_m(bench, day) for day in range(5)]
    assert 2e-4 < np.mean(misses) < 5e-3


def test_wrench_is_zero_at_the_start_and_noisier_in_motion() -> None:
    realism = PRESETS["bench"].sensors
    errors = SensorErrors(realism)
    errors.restart(3)
    offset = np.array([2.0, -1.0, 0.5, 0.1, 0.0, 0.0])
    first = errors.wrench(np.zeros(6), offset, 0.0, 0.0)
    assert np.abs(first[:3]).max() < 5 * realism.force_rest_n
    still, moving = (
        np.array([errors.wrench(np.zeros(6), offset, speed, 0.0) for _ in range(400)])[:, :3].std() for speed in (0, 1)
    )
    assert still == pytest.approx(realism.force_rest_n, rel=0.1)
    assert moving == pytest.approx(realism.force_n, rel=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100), st.integers(1, 60))
def test_images_show_a_state_of_the_stated_age(seed: int, count: int) -> None:
    step_s, low_s, high_s = 0.02, 0.04, 0.1
    past = PastStates((low_s, high_s), step_s)
    past.restart(seed, np.array([0.0]))
    for k in range(count):
        past.keep(np.array([k + 1.0]))
    age_s = (count - past.look()[0]) * step_s
    assert min(low_s, count * step_s) - 1e-9 <= age_s <= high_s + 1e-9


def test_camera_errors_are_of_the_stated_size() -> None:
    realism = PRESETS["bench"].camera
    grey = np.full((256, 256, 3), 120, np.uint8)
    camera = CameraErrors(realism, 7, "wrist", 256, 256)
    camera.restart(1)
    seen = [camera.seen(grey).astype(float) for _ in range(3)]
    assert (seen[0] - seen[1]).std() / np.sqrt(2) == pytest.approx(realism.noise, rel=0.1)
    means = seen[0].mean(axis=(0, 1)) / 120
    limit = (1 + realism.exposure) * (1 + realism.white_balance)
    assert np.all((1 / limit - 0.05 < means) & (means < limit + 0.05))
    assert len({round(float(value), 3) for value in means}) > 1


@pytest.mark.parametrize("realism", ["bench", "hard"])
def test_noise_has_no_mean_and_the_defocus_has_the_stated_radius(realism: Realism) -> None:
    settings = PRESETS[realism].camera.model_copy(update={"exposure": 0.0, "white_balance": 0.0})
    camera = CameraErrors(settings, 7, "wrist", 256, 256)
    camera.restart(1)
    grey = np.full((256, 256, 3), 120, np.uint8)
    noise = np.array([camera.seen(grey).astype(float) - 120 for _ in range(4)])
    assert np.abs(noise.mean(axis=(0, 1, 2))).max() < 0.1
    assert noise.std() == pytest.approx(settings.noise, rel=0.05)
    edge = np.zeros((256, 256, 3), np.uint8)
    edge[:, 128:] = 200
    sharp = CameraErrors(settings.model_copy(update={"noise": 0.0}), 7, "wrist", 256, 256)
    sharp.restart(1)
    slope = np.diff(sharp.seen(edge)[128, :, 1].astype(float)) / 200
    at = np.arange(255) - 127
    assert slope.sum() == pytest.approx(1.0, abs=0.01)
    # The slope of a blurred edge is the kernel.
    assert np.sqrt((slope * at**2).sum()) == pytest.approx(settings.blur_px, rel=0.15)


def test_target_takes_effect_late_but_within_the_stated_delay(only: Callable[..., Task]) -> None:
    delay_s = 0.03
    cell = Cell(only(arm=presets.ArmRealism(delay_s=delay_s)), render=False)
    frame, starts = cell.reset(2), []
    for _ in range(12):
        start, target = frame.pose_base_tcp, pose_at(frame.pose_base_tcp, [0.0, 0.0, 0.004, 0.0, 0.0, 0.0])
        cell.hold(target)
        waited = 0
        while np.linalg.norm(frame.pose_base_tcp[:3] - start[:3]) < 1e-6 and waited < 60:
            frame, waited = cell.advance(0.001), waited + 1
        starts.append(waited)
        for _ in range(30):
            frame = cell.advance(0.02)
    assert max(starts) <= round(delay_s / 1e-3) + 2
    assert max(starts) - min(starts) > 5


@pytest.mark.parametrize("name", CONNECTORS)
def test_insertion_force_follows_the_published_profile(only: Callable[..., Task], name: str) -> None:
    """Insert slowly, aligned and without other errors, and compare the measured force over depth."""
    task = only(hand=HandRealism(mating=1.0))
    cell = Cell(task.with_scene(grasp_xy_m=0.0, grasp_yaw_rad=0.0), name, render=False)
    frame = cell.reset(1)
    x, y, z = MATING[name].port_xyz_m
    above = pose_at(task.target_pose_base_tcp, np.zeros(6))
    above[:3] += [x, -y, z + MATING[name].grip_m - 0.02]
    sunk, force = [], []
    for height_m in np.concatenate([np.full(8, 0.012), np.arange(0.012, -0.007, -4e-4)]):
        frame = cell.step_to(above + np.array([0.0, 0.0, height_m, 0.0, 0.0, 0.0, 0.0]))
        sunk.append(frame.object_to_goal[2] / CONNECTORS[name].depth_m)
        force.append(frame.wrench_tcp[2])
    assert frame.success
    inside = [(d, f) for d, f in zip(sunk, force, strict=True) if 0.4 < d < 0.93]
    assert len(inside) >= 2
    for depth, measured in inside:
        assert measured == pytest.approx(MATING[name].force_n(depth, outwards=False), abs=2.5)
    assert max(f for _, f in inside) < MAX_N[name]
    assert np.abs(np.array(force)[np.array(sunk) < 0]).max() < 0.5
