"""gripper: the 7th component of `executed_action`, debounced -> a width topic or franka_gripper's actions.

Parameters: task, lockstep, mode (topic | franka), gripper_command_topic, gripper_action_prefix, debounce_ticks
(default: 1 with a topic, 2 with franka), open_width_m, closed_width_m, speed_m_s, force_n. Real time: a width is
commanded when it changes. Lock-step: every executed action gets one `gripper_width`, which the cell waits for:
JointState with the stamp of the observation and the width as its only position.
"""

from __future__ import annotations

import sys
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Header

from rldg_control.gripper_logic import GripperConfig, GripperLogic, LockstepGripper
from rldg_control.nodes.reporting import OK, Report, Reporter
from rldg_core.errors import UserError
from rldg_core.from_msg import stamp_ns
from rldg_core.types import Source
from rldg_msgs.msg import EpisodeEvent, ExecutedAction
from rldg_ros.parameters import lockstep_parameter, parameter, task_parameter
from rldg_ros.qos import EVENTS, STREAM, TARGET
from rldg_ros.runner import run_node

FRANKA_TICKS = 2
"""Requests in a row that it takes to start a motion of the real hand, which lasts about a second."""


class Gripper(Node):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__("gripper")
        task = task_parameter(self)
        mode = str(
            parameter(self, "mode", "topic", "Width topic, or franka_gripper's actions.", choices=("topic", "franka"))
        )
        lockstep = lockstep_parameter(self)
        config = GripperConfig(
            ticks=int(
                parameter(
                    self,
                    "debounce_ticks",
                    FRANKA_TICKS if mode == "franka" else GripperConfig.ticks,
                    "Equal requests in a row that start a motion; the default depends on mode.",
                    low=1,
                    high=100,
                )
            ),
            open_width_m=self._width("open_width_m", GripperConfig.open_width_m, "Width of the open hand [m]."),
            closed_width_m=self._width("closed_width_m", GripperConfig.closed_width_m, "Width of the closed hand [m]."),
        )
        self._logic = GripperLogic(config)
        self._lockstep = LockstepGripper(config, task.period_ns) if lockstep else None
        if self._lockstep:
            self._widths = self.create_publisher(JointState, "gripper_width", STREAM)
        elif mode == "franka":
            self._command = FrankaGripper(self).command
        else:
            topic = str(parameter(self, "gripper_command_topic", "/gripper_width_command", "Width to command [m]."))
            publisher = self.create_publisher(Float64, topic, TARGET)
            self._command = lambda width_m: publisher.publish(Float64(data=width_m))
        self._width_m: float | None = None
        self._idle = "" if task.action.gripper else f"idle: task {task.name} has no gripper action"
        self.create_subscription(ExecutedAction, "executed_action", self._on_executed, STREAM)
        self.create_subscription(EpisodeEvent, "episode_event", self._on_event, EVENTS)
        Reporter(self, self._report)

    def _width(self, name: str, default: float, description: str) -> float:
        return float(parameter(self, name, default, description, low=0.0, high=0.2))

    def _on_executed(self, message: ExecutedAction) -> None:
        action, source = list(message.executed), Source(message.source)
        if self._lockstep:
            stamp = message.observation_stamp
            width_m = self._lockstep.on_executed(stamp_ns(stamp), action, source)
            if width_m is not None:
                self._widths.publish(JointState(header=Header(stamp=stamp), position=[width_m]))
        else:
            width_m = self._logic.on_executed(action, source)
            if width_m is not None:
                self._command(width_m)
        self._width_m = self._width_m if width_m is None else width_m

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind == EpisodeEvent.START:
            # Whoever reset the scene may have moved the hand.
            self._logic.restart()

    def _report(self) -> Report:
        return Report(OK, self._idle or "gripper ready", {"commanded_width_m": str(self._width_m)})


class FrankaGripper:
    """franka_gripper's actions: move to open, grasp to close; a new command preempts the running one."""

    def __init__(self, node: Node) -> None:
        try:
            # Not on PyPI: only where franka_ros2 is installed.
            from franka_msgs.action import Grasp, Move
        except ImportError as error:
            raise UserError(
                "parameter mode: franka needs franka_msgs, which is not installed; use mode:=topic"
            ) from error
        prefix = str(parameter(node, "gripper_action_prefix", "/franka_gripper", "Prefix of the hand's actions."))
        self._open_m = float(node.get_parameter("open_width_m").value)
        self._speed = float(parameter(node, "speed_m_s", 0.1, "Speed of the fingers [m/s].", low=0.001, high=0.2))
        self._force = float(parameter(node, "force_n", 20.0, "Grasping force [N].", low=0.0, high=70.0))
        self._move, self._grasp = Move, Grasp
        self._clients = {t: ActionClient(node, t, f"{prefix}/{t.__name__.lower()}") for t in (Move, Grasp)}
        self._running: Any | None = None

    def command(self, width_m: float) -> None:
        """Cancel what runs and send the motion that leads to this width."""
        if self._running:
            self._running.cancel_goal_async()
            self._running = None
        if width_m >= self._open_m:
            kind, goal = self._move, self._move.Goal(width=width_m, speed=self._speed)
        else:
            # Any object is a grasp: the epsilons span the whole stroke.
            kind, goal = self._grasp, self._grasp.Goal(width=width_m, speed=self._speed, force=self._force)
            goal.epsilon.inner = goal.epsilon.outer = self._open_m
        self._clients[kind].send_goal_async(goal).add_done_callback(self._on_accepted)

    def _on_accepted(self, future: Future) -> None:
        handle = future.result()
        self._running = handle if handle and handle.accepted else None


def main() -> None:
    """Console script."""
    sys.exit(run_node(Gripper))
