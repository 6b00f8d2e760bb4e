"""A SpaceMouse stream on spacenav/* overrides a running policy: real processes in real time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from geometry_msgs.msg import Twist
from sensor_msgs.msg import Joy

from rldg_bringup.arguments import StackArguments
from rldg_bringup.client import StackClient
from rldg_bringup.pipeline import share_dir
from rldg_bringup.runner import running_stack
from rldg_bringup.stack import insertion_stack
from rldg_core import from_msg
from rldg_core.frames import compose_delta
from rldg_core.task import load_task
from rldg_msgs.msg import Step, TeleopAction
from rldg_ros import qos, to_msg

DOMAIN = 153
HUMAN_WINDOW_S = 0.2
MARGIN_S = 0.08
"""Tolerance between stamps and arrival at the gate: transport and scheduling on a busy machine."""
STREAM_HZ = 50.0
PUSH, NUDGE = (0.3, -0.2, 0.1, 0.0, 0.0, 0.05), (-0.1, 0.25, 0.0, 0.05, 0.0, 0.0)
QUIET, TREMBLE = (0.0,) * 6, (5e-4, 0.0, -5e-4, 0.0, 0.0, 0.0)
STREAM = [(1.5, QUIET), (1.2, PUSH), (1.4, QUIET), (1.0, TREMBLE), (0.6, NUDGE), (9.0, QUIET)]
"""(duration [s], twist); TREMBLE is within the dead band."""


class Mouse:
    """Publish STREAM like spacenav_node: Twist and Joy at 50 Hz."""

    def __init__(self, client: StackClient) -> None:
        self._twist = client.node.create_publisher(Twist, "/spacenav/twist", 10)
        self._joy = client.node.create_publisher(Joy, "/spacenav/joy", 10)
        self._ends_s = np.cumsum([duration for duration, _ in STREAM])
        self._start_s: float | None = None
        client.node.create_timer(1 / STREAM_HZ, self._publish)

    def _publish(self) -> None:
        now_s = time.monotonic()
        at = 0
        if self._start_s is not None:
            at = min(int(np.searchsorted(self._ends_s, now_s - self._start_s)), len(STREAM) - 1)
        self._twist.publish(to_msg.twist(STREAM[at][1]))
        self._joy.publish(Joy(buttons=[0, 0]))

    def begin(self) -> None:
        self._start_s = time.monotonic()

    @property
    def over(self) -> bool:
        return self._start_s is not None and time.monotonic() - self._start_s > self._ends_s[-2] + 0.8


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[StackClient]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    rclpy.init(domain_id=DOMAIN)
    value = StackClient("", lambda: None)
    yield value
    value.close()
    rclpy.try_shutdown()


def test_steps_are_human_exactly_while_the_mouse_is_pushed(client: StackClient, tmp_path: Path) -> None:
    content = yaml.safe_load((share_dir() / "config" / "tasks" / "insertion.yaml").read_text())
    content["rates"] = {"control_hz": 5.0}  # tolerance for a machine that runs other tests
    content["episode"] = {"max_steps": 100}
    path = tmp_path / "slow.yaml"
    path.write_text(yaml.safe_dump(content))
    task = load_task(path)
    steps: list[Step] = []
    teleop: list[TeleopAction] = []
    client.node.create_subscription(Step, "step", steps.append, qos.STEPS)
    client.node.create_subscription(TeleopAction, "teleop_action", teleop.append, qos.STREAM)
    mouse = Mouse(client)
    arguments = StackArguments(task=str(path), policy="hold", teleop=True, log_level="warn")
    with running_stack(insertion_stack(arguments, share_dir()), tmp_path / "log") as process:
        client._check = process.check
        client.wait_ready()
        client.wait(lambda: bool(teleop), 20.0, "teleop_action")

        def finished() -> bool:
            if len(steps) > 5 and mouse._start_s is None:
                mouse.begin()
            return mouse.over

        client.run_episodes(1, 0, until=finished)
        client.wait(lambda: bool(steps) and steps[-1].is_last, 10.0, "last Step")

    active_s = np.array([from_msg.stamp_ns(t.header.stamp) * 1e-9 for t in teleop if t.active])
    assert len(active_s) >= 5
    expected = {tuple(np.float32(PUSH)), tuple(np.float32(NUDGE))}
    assert {tuple(np.float32(t.action)) for t in teleop if t.active} == expected, "tremor is no input"

    sources = []
    for step in (from_msg.step(s) for s in steps if not s.is_last):
        sources.append(step.action.source.name)
    human = 0
    for message in steps[:-1]:
        step = from_msg.step(message)
        sent_s = from_msg.stamp_ns(message.action.header.stamp) * 1e-9
        before_s = sent_s - active_s
        surely = np.any((before_s > MARGIN_S) & (before_s < HUMAN_WINDOW_S - MARGIN_S))
        maybe = np.any((before_s > -MARGIN_S) & (before_s < HUMAN_WINDOW_S + MARGIN_S))
        if surely:
            assert step.action.source.name == "HUMAN", sources
        if not maybe:
            assert step.action.source.name == "POLICY", sources
            assert step.action.box_clipped or not step.action.executed.any()
        if step.action.source.name == "HUMAN":
            human += 1
            assert tuple(step.action.requested) in expected
            assert step.action.box_clipped or tuple(step.action.executed) in expected
            # The recorded action equals the target sent to the arm.
            delta = task.action.to_delta_tcp(step.action.executed)
            target = from_msg.pose_array(message.action.target_base_tcp)
            np.testing.assert_allclose(compose_delta(step.observation.pose_base_tcp, delta)[:3], target[:3], atol=1e-6)
    assert human >= 5 and sources[0] == sources[-1] == "POLICY", sources
