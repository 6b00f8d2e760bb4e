"""The exporter in its own process: a goal, a refused goal, feedback, cancellation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor

from rldg_data.bags.recording import write_episode
from rldg_data.recipe.planning import make_plan
from rldg_data.recipe.recipe import quick_recipe
from rldg_data.rlds import read_dataset
from rldg_data.rlds.export import export_plan
from rldg_data.testing.steps import make_episode, make_task
from rldg_msgs.action import ExportDataset

DOMAIN = "120"
DEADLINE_S = 30.0


class Client:
    """Action client with a deadline on every call."""

    def __init__(self, context: rclpy.Context) -> None:
        self.node = rclpy.node.Node("test_exporter", context=context, namespace="rldg")
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.action = ActionClient(self.node, ExportDataset, "export_dataset")
        self.feedback: list[tuple[int, int]] = []

    def wait(self, future: Any) -> Any:
        end = time.monotonic() + DEADLINE_S
        while not future.done():
            assert time.monotonic() < end, "timed out"
            self.executor.spin_once(timeout_sec=0.02)
        return future.result()

    def send(self, **goal: Any) -> Any:
        assert self.action.wait_for_server(timeout_sec=DEADLINE_S)

        def on_feedback(message: Any) -> None:
            self.feedback.append((message.feedback.episodes_done, message.feedback.episodes_total))

        return self.wait(self.action.send_goal_async(ExportDataset.Goal(**goal), feedback_callback=on_feedback))


@pytest.fixture
def client() -> Iterator[Client]:
    process = subprocess.Popen(
        [sys.executable, "-c", "from rldg_data.nodes.exporter import main; main()", "--ros-args", "-r", "__ns:=/rldg"],
        env={**os.environ, "ROS_DOMAIN_ID": DOMAIN},
        start_new_session=True,
    )
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(DOMAIN))
    client = Client(context)
    yield client
    client.node.destroy_node()
    rclpy.shutdown(context=context)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(timeout=DEADLINE_S) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_goal_writes_the_same_bytes_as_the_command_line(tmp_path: Path, client: Client) -> None:
    for seed in range(4):
        write_episode(tmp_path / "bags", make_episode(5, seed=seed, success=seed > 0), make_task())
    goal = {"bag_dir": str(tmp_path / "bags"), "name": "insertion", "version": "1.0.0", "only_success": True}
    handle = client.send(output_dir=str(tmp_path / "a"), source="policy", seed=5, **goal)
    answer = client.wait(handle.get_result_async())
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    result = answer.result
    assert (result.success, result.episodes, result.steps) == (True, 3, 18)
    assert client.feedback[-1] == (3, 3)
    assert len(read_dataset(Path(result.path))) == 3
    recipe = quick_recipe([tmp_path / "bags"], "insertion", only_success=True, source="policy", seed=5)
    twin = export_plan(make_plan(recipe, tmp_path), tmp_path / "b").path
    contents = [{p.name: p.read_bytes() for p in path.iterdir()} for path in (Path(result.path), twin)]
    assert contents[0] == contents[1]

    # The same goal again: refused with the reason, and the node continues.
    handle = client.send(output_dir=str(tmp_path / "a"), **goal)
    answer = client.wait(handle.get_result_async())
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert not answer.result.success
    assert answer.result.message.startswith(f"{result.path}: already exists")


def test_cancelled_export_leaves_nothing(tmp_path: Path, client: Client) -> None:
    steps = make_episode(20, image_size=64)
    for _ in range(150):
        write_episode(tmp_path / "bags", steps, make_task())
    handle = client.send(
        bag_dir=str(tmp_path / "bags"), output_dir=str(tmp_path / "out"), name="insertion", version="1.0.0"
    )
    client.wait(handle.cancel_goal_async())
    answer = client.wait(handle.get_result_async())
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert answer.result.message == "cancelled, no dataset was written"
    assert not (tmp_path / "out/insertion/1.0.0").exists()
