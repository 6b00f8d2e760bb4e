"""Pick and place: grasping by contact, ground truth, visibility, and a demonstration by the scripted operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rldg_core.errors import UserError
from rldg_core.task import Task, find_task
from rldg_sim.cell import Cell, SensorFrame
from rldg_sim.episodes import ask
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.operators.picking import perceive
from rldg_sim.scene import make_operator
from rldg_sim.scenes.pick_and_place import tabletop

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"
OPEN, CLOSE, KEEP = 1.0, -1.0, 0.0


@pytest.fixture(scope="module")
def task() -> Task:
    return find_task("pick_and_place", [TASKS]).with_scene(realism="ideal")


@pytest.fixture(scope="module")
def cell(task: Task) -> Iterator[Cell]:
    cell = Cell(task, render=False)
    yield cell
    cell.close()


def towards(cell: Cell, way_tcp: np.ndarray, turn_rad: float, grip: float) -> SensorFrame:
    """Do one step without imperfections: `way_tcp` (3,) [m] and a rotation about the tool."""
    wish = np.concatenate([way_tcp, [0.0, 0.0, turn_rad]])
    return cell.step(np.append(np.clip(cell.task.action.from_delta_tcp(wish), -1, 1), grip))


def pick_up(cell: Cell, seed: int, object_name: str = "") -> SensorFrame:
    """Grasp the object and lift it 12 cm."""
    frame = cell.reset(seed, object_name)
    for height, steps in ((0.05, 16), (0.0, 9)):
        for _ in range(steps):
            turn = perceive(frame.wrench_tcp, frame.object_to_goal, frame.object_to_tcp, 0.08).turn_rad
            frame = towards(cell, frame.object_to_tcp[:3] - [0, 0, height], turn, OPEN)
    for _ in range(6):
        frame = towards(cell, np.zeros(3), 0.0, CLOSE)
    for _ in range(12):
        frame = towards(cell, np.array([0, 0, -0.012]), 0.0, KEEP)
    return frame


def carry_over_the_bowl(cell: Cell, frame: SensorFrame) -> SensorFrame:
    for _ in range(40):
        seen = perceive(frame.wrench_tcp, frame.object_to_goal, frame.object_to_tcp, frame.gripper_width_m)
        frame = towards(cell, seen.to_goal * [1, 1, 0] + [0, 0, seen.height_m - 0.04], 0.0, KEEP)
    return frame


def test_empty_gripper_closes_at_its_speed_and_opens_again(cell: Cell) -> None:
    cell.reset(1)
    widths = [towards(cell, np.zeros(3), 0.0, CLOSE).gripper_width_m for _ in range(10)]
    assert widths[2] == pytest.approx(0.05, abs=0.004), "0.1 m/s"
    assert widths[-1] == pytest.approx(0.0, abs=1e-3)
    assert towards(cell, np.zeros(3), 0.0, KEEP).gripper_width_m == pytest.approx(0.0, abs=1e-3), "0 keeps the width"
    for _ in range(10):
        frame = towards(cell, np.zeros(3), 0.0, OPEN)
    assert frame.gripper_width_m == pytest.approx(0.08, abs=1e-3)


@pytest.mark.parametrize("object_name", ["green_pepper", "yellow_corn"])
def test_grasped_object_is_lifted_carried_and_released(cell: Cell, object_name: str) -> None:
    item = tabletop.ITEMS[object_name]
    lifted = pick_up(cell, 4, object_name)
    assert lifted.object_to_goal[2] < -0.05, "in the air"
    assert 2 * item.radius_m - 0.006 < lifted.gripper_width_m < 2 * item.radius_m + 1e-3
    weight_n = 9.81 * item.mass_kg
    assert 0.5 * weight_n < -lifted.wrench_tcp[2] < 1.5 * weight_n, "the wrench contains its weight"
    carried = carry_over_the_bowl(cell, lifted)
    assert np.linalg.norm(carried.object_to_tcp[:3] - lifted.object_to_tcp[:3]) < 3e-3, "the object does not slip"
    assert not carried.success and not carried.failure
    frames = [towards(cell, np.zeros(3), 0.0, OPEN) for _ in range(8)]
    assert frames[-1].success and not frames[-1].failure
    assert frames[-1].object_to_goal[2] > 0.005, "the object rests below the rim"


def test_object_held_in_the_bowl_succeeds_only_after_release(cell: Cell) -> None:
    frame = carry_over_the_bowl(cell, pick_up(cell, 2))
    for _ in range(12):
        seen = perceive(frame.wrench_tcp, frame.object_to_goal, frame.object_to_tcp, frame.gripper_width_m)
        frame = towards(cell, np.array([0, 0, seen.height_m + 0.012]), 0.0, KEEP)
    assert frame.object_to_goal[2] > 0 and not frame.success
    successes = [towards(cell, np.zeros(3), 0.0, OPEN).success for _ in range(6)]
    assert successes[-1]


def test_object_out_of_reach_is_a_failure(cell: Cell) -> None:
    cell.reset(2)
    data = cell._simulation.data
    lies = data.qpos[9:12].copy()
    for position, lost in (([0.5, 0.3, 0.03], True), ([0.5, 0.1, -0.3], True), (lies, False)):
        data.qpos[9:12] = position
        assert cell._frame(render=False).failure is lost


def test_same_seed_and_actions_repeat_bit_for_bit(task: Task) -> None:
    frames = []
    for _ in range(2):
        cell = Cell(task, render=False)
        cell.reset(9)
        frames.append(carry_over_the_bowl(cell, pick_up(cell, 3)))
    np.testing.assert_array_equal(frames[0].object_to_goal, frames[1].object_to_goal)
    np.testing.assert_array_equal(frames[0].wrench_tcp, frames[1].wrench_tcp)


def test_placements_fill_the_region_and_differ(cell: Cell, task: Task) -> None:
    starts = [cell.reset(seed) for seed in range(60)]
    middle = np.array(task.reset.pose_base_tcp[:2]) - task.target_pose_base_tcp[:2]
    offsets = np.array([f.object_to_goal[:2] * [1, -1] for f in starts]) - middle
    assert np.abs(offsets).max() <= 0.09 + 1e-6
    assert np.all(offsets.max(axis=0) > 0.07) and np.all(offsets.min(axis=0) < -0.07)
    assert not any(f.success or f.failure for f in starts)
    assert all(f.gripper_width_m == pytest.approx(0.08) for f in starts)


def coloured(image: np.ndarray, object_name: str) -> int:
    """Return the number of pixels of the object's colour."""
    red, green, blue = image.astype(int).transpose(2, 0, 1)
    if object_name == "green_pepper":
        return int(np.sum((green > 1.4 * red) & (green > 1.4 * blue) & (green > 40)))
    return int(np.sum((red > 2.2 * blue) & (green > 1.8 * blue) & (red > 100)))


@pytest.mark.parametrize("object_name", ["green_pepper", "yellow_corn"])
def test_object_is_visible_at_every_start(task: Task, object_name: str) -> None:
    cell = Cell(task.with_scene(light=0.0, colour=0.0), object_name, image_size_px=(128, 128))
    images = {seed: cell.reset(seed).image for seed in range(25)}
    pixels = {seed: coloured(image, object_name) for seed, image in images.items()}
    cell.close()
    assert min(pixels.values()) > 50, pixels


def test_held_out_object_lies_on_beige_wood(task: Task) -> None:
    corners = {}
    for name in task.objects:
        cell = Cell(task, name, image_size_px=(64, 64))
        corners[name] = cell.reset(1).image[:8, :8].reshape(-1, 3).mean(axis=0)
        cell.close()
    red, _, blue = corners["yellow_corn"]
    assert red > 1.15 * blue, "beige"
    assert np.abs(corners["yellow_corn"] - corners["green_pepper"]).max() > 30


def test_unknown_object_is_refused_by_name(task: Task) -> None:
    with pytest.raises(UserError, match=r"'melon'.*green_pepper, yellow_corn"):
        tabletop.tabletop_item("melon")


def demonstrate(cell: Cell, seeds: range, config: OperatorConfig) -> list[tuple[bool, int, np.ndarray]]:
    operator = make_operator(config, cell.task)
    results = []
    for seed in seeds:
        frame, actions = cell.reset(seed, "green_pepper"), []
        operator.reset(seed)
        while len(actions) < cell.task.episode.max_steps and not (frame.success or frame.failure):
            action, _ = ask(operator, frame)
            actions.append(action)
            frame = cell.step(action)
        results.append((frame.success, len(actions), np.array(actions)))
    return results


def test_operator_picks_and_places_like_a_person(cell: Cell) -> None:
    results = demonstrate(cell, range(8), OperatorConfig())
    assert sum(success for success, _, _ in results) >= 6
    lengths = [steps for success, steps, _ in results if success]
    assert 45 < np.mean(lengths) < 95
    buttons = np.concatenate([actions[:, 6] for _, _, actions in results])
    assert set(np.unique(buttons)) == {-1.0, 0.0, 1.0}
    assert np.mean(buttons != 0) < 0.25, "the gripper button is pressed briefly"
    again = demonstrate(cell, range(1), OperatorConfig())[0]
    np.testing.assert_array_equal(again[2], results[0][2])


def test_operator_intervenes_without_progress_and_completes_the_task(cell: Cell) -> None:
    operator = make_operator(OperatorConfig(mode="intervene", chance_hz=0.0, patience_s=1.0), cell.task)
    operator.reset(3)
    frame = cell.reset(3, "green_pepper")
    active = []
    for _ in range(40):
        action, held = ask(operator, frame)
        active.append(held)
        frame = cell.step(action if held else np.zeros(7))
    assert not any(active[:10]) and any(active[10:])
    idle = make_operator(OperatorConfig(mode="off"), cell.task)
    pose = frame.pose_base_tcp
    assert idle.act(pose, frame.wrench_tcp, frame.object_to_goal, frame.object_to_tcp, 0.08, 0.0)[1] is False
