"""The Gymnasium environment: Gymnasium's own check, the rules of the gate, episodes equal to those of the cell."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rldg_core.commands import command_of
from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_core.task import Task, find_task
from rldg_core.types import Source, Step
from rldg_sim.cell import Cell
from rldg_sim.env import CellEnv
from rldg_sim.episodes import hold, run_episode
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.scene import make_operator

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"
SIDE = {
    "topic": "side/color/image_raw",
    "width": 64,
    "height": 48,
    "crop": {"x": 8, "y": 0, "width": 48, "height": 48},
    "image_size": 32,
    "mount": {"position_base_m": [0.9, 0.5, 0.45], "aim_base_m": [0.5, 0.0, 0.15]},
}


def with_cameras(task: Task, cameras: dict[str, Any]) -> Task:
    return Task.model_validate(task.model_dump() | {"cameras": cameras})


@pytest.mark.parametrize("name", ["insertion", "pick_and_place"])
def test_gymnasium_check_passes(name: str) -> None:
    env = gymnasium.make("rldg_sim.env:rldg/Cell-v0", task=find_task(name, [TASKS]), render_mode="rgb_array")
    check_env(env.unwrapped)
    env.close()


def test_observations_are_those_of_policies(insertion: Task) -> None:
    task = with_cameras(insertion, insertion.model_dump()["cameras"] | {"side": SIDE})
    env = CellEnv(task)
    seen, _ = env.reset(seed=4)
    assert sorted(seen) == ["side", "state", "wrist"] and env.observation_space.contains(seen)
    seen, *_ = env.step(np.array([0.5, -1, 0, 0, 0, 1], np.float32))
    observation = env.observation
    for name in ("wrist", "side"):
        assert np.array_equal(seen[name], decode_jpeg(observation.images[name]))
    assert seen["side"].shape == (32, 32, 3)
    parts = observation.pose_base_tcp, [observation.gripper_width_m], observation.twist_base_tcp, observation.wrench_tcp
    np.testing.assert_array_equal(seen["state"], np.concatenate(parts).astype(np.float32))
    assert np.linalg.norm(observation.twist_base_tcp[:3]) > 0.01
    env.close()


def test_actions_are_executed_by_the_rules_of_the_gate(insertion: Task) -> None:
    env, cell = CellEnv(insertion, images=False), Cell(insertion, render=False)
    rng = np.random.default_rng(0)
    env.reset(seed=2)
    frame = cell.reset(2)
    clipped = 0
    for _ in range(40):
        action = rng.uniform(-1, 1, 6).astype(np.float32) + np.float32([1, 0, 0, 0, 0, 0])
        action = np.clip(action, -1, 1)
        target, executed, _, box_clipped = command_of(action, frame.pose_base_tcp, insertion.action, insertion.box)
        clipped += box_clipped
        frame = cell.step_to(target)
        _, _, _, _, info = env.step(action)
        np.testing.assert_array_equal(info["executed"], executed)
        np.testing.assert_array_equal(env.frame.pose_base_tcp, frame.pose_base_tcp)
    assert clipped > 5


def test_episodes_end_by_the_rules_of_gymnasium(insertion: Task) -> None:
    short = insertion.model_copy(update={"episode": insertion.episode.model_copy(update={"max_steps": 3})})
    env = CellEnv(short, images=False)
    env.reset(seed=0)
    outcomes = [env.step(np.zeros(6, np.float32))[1:4] for _ in range(3)]
    assert outcomes == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]
    starts = [env.reset(seed=7)[0]["state"], env.reset()[0]["state"], env.reset()[0]["state"]]
    assert not np.array_equal(starts[1], starts[2]), "without a seed every episode differs"
    again = [env.reset(seed=7)[0]["state"], env.reset()[0]["state"], env.reset()[0]["state"]]
    np.testing.assert_array_equal(starts, again)
    np.testing.assert_array_equal(starts[0][8:14], np.zeros(6))
    env.reset(seed=1, options={"object": "usb_c"})
    assert env.cell.object_name == "usb_c"


def test_invalid_actions_and_objects_are_refused(insertion: Task) -> None:
    env = CellEnv(insertion, images=False)
    env.reset(seed=0)
    for wrong in (np.zeros(7, np.float32), np.full(6, np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"action: expected \(6,\) finite numbers"):
            env.step(wrong)
    with pytest.raises(UserError, match="unknown object 'banana'"):
        env.reset(seed=0, options={"object": "banana"})
    cameras = {"state": insertion.model_dump()["cameras"]["wrist"]}
    with pytest.raises(UserError, match=r"cameras\.state"):
        CellEnv(with_cameras(insertion, cameras))
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        CellEnv("nowhere.yaml")


def test_episode_gives_the_steps_of_a_recording(insertion: Task) -> None:
    env = CellEnv(insertion, "vga", images=False)
    for seed in range(10):
        steps: list[Step] = []
        operator = make_operator(OperatorConfig(), insertion)
        episode = run_episode(env, seed, hold(insertion), operator, steps.append, episode_id="e", step_count=7)
        if episode.success:
            break
    assert episode.success and episode.true_success and episode.interventions == episode.steps == len(steps) - 1
    assert [s.index for s in steps] == list(range(len(steps))) and steps[0].step_count == 7
    assert steps[0].is_first and steps[-1].is_last and steps[-1].action.source is Source.NONE
    assert [s.reward for s in steps[-2:]] == [1.0, 0.0] and all(s.terminated for s in steps[-2:])
    assert {s.action.source for s in steps[:-1]} == {Source.SCRIPTED}
    assert all(a.observation.stamp_ns + insertion.period_ns == b.observation.stamp_ns for a, b in pairwise(steps))

    judged = run_episode(env, 0, hold(insertion), judge=lambda seen: seen.stamp_ns > 5 * insertion.period_ns)
    assert judged.success and not judged.true_success and judged.steps == 6
