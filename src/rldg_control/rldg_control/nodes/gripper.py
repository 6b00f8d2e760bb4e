"""gripper: the 7th component of `executed_action`, debounced -> a width topic, or the actions move and grasp.

Parameters: task, task_dirs, lockstep, mode (topic | actions), gripper_command_topic, gripper_action_prefix, debounce_s
(default: 0 with a topic, 0.05 with actions), open_width_m, closed_width_m, speed_m_s, force_n. Real time: a width is
commanded when it changes. Lock-step: every executed action gets one `gripper_width`, which the cell waits for:
JointState with the stamp of the observation and the width as its only position.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Header

from rldg_control.gripper_logic import GripperConfig, GripperLogic, LockStepGripper
from rldg_control.nodes.franka_hand import FrankaHand
from rldg_core.errors import UserError
from rldg_core.from_msg import stamp_ns
from rldg_core.types import Source
from rldg_msgs.msg import EpisodeEvent, ExecutedAction
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.qos import EVENTS, STREAM, TARGET
from rldg_ros.reporting import ERROR, OK, WARN, Report, Reporter, unpublished
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe
from rldg_ros.vendors import vendor_topic

ACTIONS_DEBOUNCE_S = 0.05
"""Debounce of a hand whose motion takes a second: two executed actions must agree."""

STALE_S = 1.0
"""Maximum age of an executed action: a node that restarts receives old ones from the transient-local topic."""


class GripperNode(Node):
    """The gripper node; see the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("gripper")
        task = task_parameter(self)
        pace = pace_parameter(self)
        mode = str(
            parameter(self, "mode", "topic", "Width topic, or actions move and grasp.", choices=("topic", "actions"))
        )
        debounce_s = parameter(
            self,
            "debounce_s",
            ACTIONS_DEBOUNCE_S if mode == "actions" else GripperConfig.debounce_s,
            "How long a request must persist before the gripper moves [s]; the default depends on mode.",
            low=0.0,
            high=10.0,
        )
        config = GripperConfig(
            debounce_s=float(debounce_s),
            forget_s=max(GripperConfig.forget_s, 2 * float(debounce_s), 4 * task.period_s),
            open_width_m=self._width("open_width_m", GripperConfig.open_width_m, "Width of the open hand [m]."),
            closed_width_m=self._width("closed_width_m", GripperConfig.closed_width_m, "Width of the closed hand [m]."),
        )
        if config.closed_width_m >= config.open_width_m:
            raise UserError(
                f"parameter closed_width_m: expected less than open_width_m, {config.open_width_m}, "
                f"got {config.closed_width_m}"
            )
        self._drive = DRIVES[pace.name](self, config, task.period_ns, mode)
        self._width_m: float | None = None
        self._idle = "" if task.action.gripper else f"idle: task {task.name} has no gripper action"
        subscribe(self, ExecutedAction, "executed_action", self._on_executed, STREAM)
        subscribe(self, EpisodeEvent, "episode_event", self._on_event, EVENTS)
        Reporter(self, self._report)

    def _width(self, name: str, default: float, description: str) -> float:
        return float(parameter(self, name, default, description, low=0.0, high=0.2))

    def _on_executed(self, message: ExecutedAction) -> None:
        width_m = self._drive.on_executed(message)
        self._width_m = self._width_m if width_m is None else width_m

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind == EpisodeEvent.START:
            self._drive.on_start()

    def _report(self) -> Report:
        values = {"commanded_width_m": str(self._width_m), **self._drive.values()}
        if self._idle:
            return Report(OK, self._idle, values)
        missing = [*unpublished(self, ["executed_action"]), *self._drive.missing()]
        if fault := self._drive.fault:
            return Report(ERROR, "; ".join([fault, *missing]), values)
        if missing:
            return Report(WARN, f"waiting: {'; '.join(missing)}", values)
        return Report(OK, "gripper ready", values)


class Drive(Protocol):
    """Moves the gripper by executed actions."""

    @property
    def fault(self) -> str:
        """One line that says what is wrong with the gripper, or ""."""

    def on_executed(self, message: ExecutedAction) -> float | None:
        """Return the width [m] that was commanded, if any."""

    def on_start(self) -> None:
        """Handle the start of an episode."""

    def missing(self) -> list[str]:
        """Return one line for each missing connection."""

    def values(self) -> dict[str, str]:
        """Return values for diagnostics."""


class LockStepDrive:
    """Publishes one width for each executed action, with the stamp of the observation: the cell waits for it."""

    fault = ""

    def __init__(self, node: Node, config: GripperConfig, period_ns: int, mode: str) -> None:
        self._logic = LockStepGripper(config, period_ns)
        self._widths = node.create_publisher(JointState, "gripper_width", STREAM)

    def on_executed(self, message: ExecutedAction) -> float | None:
        """Publish the width of the action, once."""
        stamp = message.observation_stamp
        width_m = self._logic.on_executed(stamp_ns(stamp), list(message.executed), Source(message.source))
        if width_m is not None:
            self._widths.publish(JointState(header=Header(stamp=stamp), position=[width_m]))
        return width_m

    def on_start(self) -> None:
        """Do nothing: a reset is known by the gap between stamps; an event would race with the first action."""

    def missing(self) -> list[str]:
        """Return no line."""
        return []

    def values(self) -> dict[str, str]:
        """Return no further values."""
        return {}


class RealTimeDrive:
    """Commands a width when it changes, through a topic or actions."""

    def __init__(self, node: Node, config: GripperConfig, period_ns: int, mode: str) -> None:
        self._clock, self._logic = node.get_clock(), GripperLogic(config)
        self._hand: FrankaHand | WidthTopic = FrankaHand(node, config) if mode == "actions" else WidthTopic(node)
        self._stale = 0

    @property
    def fault(self) -> str:
        """Fault of the hand."""
        return self._hand.fault

    def on_executed(self, message: ExecutedAction) -> float | None:
        """Command the hand if a recent action requests another width."""
        now_ns = self._clock.now().nanoseconds
        if now_ns - stamp_ns(message.header.stamp) > STALE_S * 1e9:
            self._stale += 1
            return None
        if self._hand.missing():
            # No request is kept for a hand that is not connected: it would move at an unexpected time.
            self._logic.restart()
            return None
        width_m = self._logic.on_executed(list(message.executed), Source(message.source), now_ns * 1e-9)
        if width_m is not None:
            self._hand.command(width_m)
        return width_m

    def on_start(self) -> None:
        """Forget the commanded width: the hand may have been moved during the reset."""
        self._logic.restart()

    def missing(self) -> list[str]:
        """Return the missing connections of the hand."""
        return self._hand.missing()

    def values(self) -> dict[str, str]:
        """Return the values of the hand and the count of stale actions."""
        return {"stale_actions": str(self._stale), **self._hand.values()}


DRIVES: Mapping[str, Callable[[Node, GripperConfig, int, str], Drive]] = {
    "real_time": RealTimeDrive,
    "lock_step": LockStepDrive,
}
"""Drive by the name of the pace."""


class WidthTopic:
    """A driver that takes widths [m] as std_msgs/Float64."""

    fault = ""

    def __init__(self, node: Node) -> None:
        name = str(parameter(node, "gripper_command_topic", "gripper_width_command", "Width to command [m]."))
        self._publisher = node.create_publisher(Float64, vendor_topic(node, name), TARGET)

    def missing(self) -> list[str]:
        """Return one line when no node subscribes."""
        listens = self._publisher.get_subscription_count() > 0
        return [] if listens else [f"nobody listens to {self._publisher.topic_name}"]

    def command(self, width_m: float) -> None:
        """Publish the width."""
        self._publisher.publish(Float64(data=width_m))

    def values(self) -> dict[str, str]:
        """Return no further values."""
        return {}


def main() -> None:
    """Run the node."""
    sys.exit(run_node(GripperNode))
