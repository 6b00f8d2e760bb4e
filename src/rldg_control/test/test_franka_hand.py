"""The gripper node with franka_msgs' actions and a server that answers like franka_ros2's.

Needs franka_msgs; test_hand.py has the tests of the state machine alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, Lock, Thread
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from rldg_msgs.msg import ExecutedAction
from rldg_ros import to_msg
from rldg_ros.qos import STREAM

DOMAIN = 203

actions = pytest.importorskip("franka_msgs.action", reason="franka_msgs is not installed")

CANCEL_POLL_S = 1 / 30
"""feedback_publish_rate of franka_gripper: how often it looks for a cancellation."""


class Motion:
    """A blocking command of libfranka's hand."""

    def __init__(self, kind: str, width_m: float) -> None:
        self.kind, self.width_m = kind, width_m
        self.ended, self.succeeded = Event(), False

    def end(self, succeeded: bool) -> None:
        self.succeeded = succeeded
        self.ended.set()


class FrankaServer(Node):
    """Serves the actions move and grasp. A cancellation is seen at the next poll and stops the motion that runs
    then."""

    def __init__(self, context: Any, namespace: str) -> None:
        super().__init__("franka_gripper", namespace=namespace, context=context, use_global_arguments=False)
        self.lock, self.motions = Lock(), list[Motion]()
        group = ReentrantCallbackGroup()
        self.servers = [
            ActionServer(
                self,
                getattr(actions, kind.capitalize()),
                f"~/{kind}",
                lambda handle, k=kind: self._execute(k, handle),
                callback_group=group,
                cancel_callback=lambda _handle: CancelResponse.ACCEPT,
            )
            for kind in ("move", "grasp")
        ]
        self.executor_ = MultiThreadedExecutor(num_threads=6, context=context)
        self.executor_.add_node(self)
        self.thread = Thread(target=self.executor_.spin, daemon=True)
        self.thread.start()

    def _execute(self, kind: str, handle: ServerGoalHandle) -> Any:
        motion = Motion(kind, handle.request.width)
        with self.lock:
            self.motions.append(motion)
        result = getattr(actions, kind.capitalize()).Result
        while not motion.ended.wait(CANCEL_POLL_S):
            if handle.is_cancel_requested:
                for moving in self.moving():
                    moving.end(False)
                handle.canceled()
                return result(success=False)
        if motion.succeeded:
            handle.succeed()
        else:
            handle.abort()
        return result(success=motion.succeeded, error="" if motion.succeeded else "libfranka gripper: Command failed!")

    def moving(self) -> list[Motion]:
        """Motions that have not ended."""
        with self.lock:
            return [m for m in self.motions if not m.ended.is_set()]

    def done(self) -> list[tuple[str, float, bool]]:
        """Kind, width and success of each motion that ended."""
        with self.lock:
            return [(m.kind, m.width_m, m.succeeded) for m in self.motions if m.ended.is_set()]

    def close(self) -> None:
        for motion in self.moving():
            motion.end(False)
        self.executor_.shutdown()
        self.thread.join(timeout=5)
        self.destroy_node()


class Hand:
    """A gripper node of robot1 as a process, an action server, and executed actions for the node."""

    def __init__(self, rig: Any) -> None:
        self.rig, self.status = rig, DiagnosticStatus()
        self.server: FrankaServer | None = None
        self.executed = rig.bench.create_publisher(ExecutedAction, "/robot1/rldg/executed_action", STREAM)
        rig.bench.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        rig.start("gripper", namespace="/robot1/rldg", mode="actions")

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/robot1/rldg/gripper":
                self.status = status

    def start_server(self) -> FrankaServer:
        self.server = FrankaServer(self.rig.context, "/robot1")
        self.rig.until(lambda: self.status.message == "gripper ready", what="ready")
        return self.server

    def ask(self, value: float) -> None:
        """Publish what the gate executes in two ticks: a request and its confirmation."""
        for _ in range(2):
            message = ExecutedAction(executed=to_msg.floats([0.0] * 6 + [value]), source=ExecutedAction.POLICY)
            message.header.stamp = self.rig.bench.get_clock().now().to_msg()
            self.executed.publish(message)
            self.rig.spin_for(0.06)

    def until_moving(self, kind: str) -> Motion:
        server = self.server
        assert server is not None
        self.rig.until(lambda: [m.kind for m in server.moving()] == [kind], what=f"only {kind} runs")
        return server.moving()[0]


@pytest.fixture
def hand(make_rig: Callable[..., Any]) -> Iterator[Hand]:
    hand = Hand(make_rig(DOMAIN, changes={"action": {"gripper": True}}))
    yield hand
    if hand.server:
        hand.server.close()


def test_ready_node_ignores_requests_from_before_its_servers(hand: Hand) -> None:
    expected = "waiting: no action server /robot1/franka_gripper/move; no action server /robot1/franka_gripper/grasp"
    hand.rig.until(lambda: hand.status.message == expected, what=expected)
    assert hand.status.level == DiagnosticStatus.WARN
    hand.ask(-1)
    server = hand.start_server()
    hand.rig.spin_for(0.3)
    assert not server.motions, "a request from before the servers is not carried out later"
    hand.ask(-1)
    assert hand.until_moving("grasp").width_m == 0.0


def test_new_request_waits_for_the_end_of_the_cancelled_motion(hand: Hand) -> None:
    server = hand.start_server()
    hand.ask(1)
    hand.until_moving("move")
    for _ in range(5):  # the window of the race is 33 ms: without the wait, some round would hit it
        hand.ask(-1)
        hand.until_moving("grasp")
        hand.ask(1)
        hand.until_moving("move")
    hand.ask(-1)
    hand.until_moving("grasp").end(True)
    hand.rig.until(lambda: server.done()[-1] == ("grasp", 0.0, True), what="the last request is carried out")
    kinds = [kind for kind, _, _ in server.done()]
    assert kinds == ["move", "grasp"] * 6, "no cancellation stopped another motion and caused a retry"
    hand.rig.until(lambda: hand.status.message == "gripper ready", what="no fault")


def test_failed_grasp_is_retried_and_reported(hand: Hand) -> None:
    server = hand.start_server()
    hand.ask(-1)
    for _ in range(3):
        hand.until_moving("grasp").end(False)
    expected = "0.000 m: libfranka gripper: Command failed! (given up after 3 tries)"
    hand.rig.until(lambda: hand.status.message == expected, what=expected)
    assert hand.status.level == DiagnosticStatus.ERROR
    hand.ask(1)
    hand.until_moving("move").end(True)
    hand.rig.until(lambda: hand.status.message == "gripper ready", what="recovery")
    assert len(server.done()) == 4


def test_unresponsive_server_is_reported(hand: Hand) -> None:
    server = hand.start_server()
    server.executor_.shutdown()  # like a hanging driver: its servers still exist
    hand.ask(1)
    expected = "0.080 m: no answer to the goal within 2 s (given up after 3 tries)"
    hand.rig.until(lambda: hand.status.message == expected, what=expected)
    assert hand.status.level == DiagnosticStatus.ERROR and not server.motions
