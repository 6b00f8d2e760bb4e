"""Pick and place end to end: bags of `rldg record` equal the cell as a library."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np

from rldg_core.frames import compose_delta
from rldg_core.task import find_task
from rldg_core.types import Source
from rldg_data.bags.reading import find_bags, read_episode
from rldg_sim.cell import Cell

DOMAIN = 111
TASKS = Path(__file__).parents[1] / "config" / "tasks"


def test_recorded_demonstration_equals_that_of_the_library(tmp_path: Path) -> None:
    """Record two episodes: before the second one, the reset opens the gripper without a command."""
    result = subprocess.run(
        ["rldg", "record", "pick_and_place", "--out", str(tmp_path / "bags"), "--episodes", "2", "--json"],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["episodes"] == 2
    task = find_task("pick_and_place", [TASKS])
    cell = Cell(task, render=False)
    for bag in find_bags(tmp_path / "bags"):
        steps = read_episode(bag)
        frame = cell.reset(steps[0].seed)
        for step in steps[:-1]:
            np.testing.assert_array_equal(step.observation.pose_base_tcp, frame.pose_base_tcp)
            assert step.observation.gripper_width_m == np.float32(frame.gripper_width_m)
            action = step.action.executed
            assert action.shape == (7,) and step.action.source is Source.SCRIPTED
            if abs(action[6]) > 0.5:
                cell.command_gripper(0.08 if action[6] > 0 else 0.0)
            delta = task.action.to_delta_tcp(step.action.requested)
            frame = cell.step_to(task.box.clip(compose_delta(frame.pose_base_tcp, delta))[0])
        np.testing.assert_array_equal(steps[-1].observation.pose_base_tcp, frame.pose_base_tcp)
        assert steps[-1].success == frame.success
        widths = [s.observation.gripper_width_m for s in steps]
        assert widths[0] > 0.079 and min(widths) < 0.05, "the object was grasped"
