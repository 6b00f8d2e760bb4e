"""teleop: SpaceMouse (spacenav) -> `teleop_action` at the control rate, and immediately when an intervention starts.

Parameters: task, task_dirs, lockstep, twist_topic, joy_topic, twist_stamped, axis_map, axis_scale, dead_band,
gripper_button, override_button (rldg_control.teleop_logic.TeleopMap).
"""

from __future__ import annotations

import sys
from time import monotonic

from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import Header

from rldg_control.teleop_logic import TeleopLogic, TeleopMap
from rldg_core.from_msg import twist_array
from rldg_msgs.msg import ExecutedAction, TeleopAction
from rldg_ros import to_msg
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.qos import STREAM
from rldg_ros.reporting import OK, WARN, Report, Reporter, steady_timer, unpublished
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe
from rldg_ros.vendors import ChangeFilter, PolledSubscriptions, vendor_topic

SILENT_S = 2.0
"""Time without a twist after which the driver counts as silent: it sends 30 Hz, also at rest, and nothing without
spacenavd."""


class TeleopNode(Node):
    """Teleoperation; see the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("teleop")
        task = task_parameter(self)
        pace_parameter(self)  # declared like everywhere; the stacks start no teleoperation in lock-step
        stamped = bool(parameter(self, "twist_stamped", False, "twist_topic carries TwistStamped instead of Twist."))
        default_topic = "spacenav/twist_stamped" if stamped else "spacenav/twist"
        twist_topic = parameter(self, "twist_topic", default_topic, "Motion of the SpaceMouse.")
        self._topic = vendor_topic(self, str(twist_topic))
        self._logic = TeleopLogic(
            TeleopMap(
                axis_map=tuple(
                    parameter(
                        self,
                        "axis_map",
                        list(TeleopMap.axis_map),
                        "For each action component, the index of its axis in [vx vy vz wx wy wz]; six values.",
                        low=0,
                        high=5,
                    )
                ),
                axis_scale=tuple(
                    parameter(
                        self,
                        "axis_scale",
                        list(TeleopMap.axis_scale),
                        "For each action component, the signed factor; six values.",
                    )
                ),
                dead_band=float(
                    parameter(
                        self,
                        "dead_band",
                        TeleopMap.dead_band,
                        "An axis [-1, 1] within this distance of its resting value counts as zero.",
                        low=0.0,
                        high=0.9,
                    )
                ),
                gripper=task.action.gripper,
                gripper_button=self._button("gripper_button", TeleopMap.gripper_button, "moves the gripper"),
                override_button=self._button("override_button", TeleopMap.override_button, "overrides the policy"),
            ),
            task.period_s,
        )
        self._publisher = self.create_publisher(TeleopAction, "teleop_action", STREAM)
        kind = TwistStamped if stamped else Twist
        changes = ChangeFilter(kind, self._on_twist, lambda: self._logic.on_same_twist(monotonic()))
        subscribe(self, kind, self._topic, changes, 10, raw=True)
        joy_topic = parameter(self, "joy_topic", "spacenav/joy", "Buttons of the SpaceMouse.")
        self._joy_topic = vendor_topic(self, str(joy_topic))
        buttons = ChangeFilter(Joy, self._on_joy, lambda: self._logic.on_same_buttons(monotonic()))
        PolledSubscriptions(self).add(Joy, self._joy_topic, buttons)
        subscribe(self, ExecutedAction, "executed_action", self._on_executed, STREAM)
        steady_timer(self, task.period_s, self._publish)
        Reporter(self, self._report)

    def _button(self, name: str, default: int, effect: str) -> int:
        return int(parameter(self, name, default, f"Index of the button that {effect}; -1: none.", low=-1, high=31))

    def _on_twist(self, message: Twist | TwistStamped) -> None:
        twist = message.twist if isinstance(message, TwistStamped) else message
        if self._logic.on_twist(twist_array(twist), monotonic()):
            self._publish()

    def _on_joy(self, message: Joy) -> None:
        self._logic.on_buttons(message.buttons, monotonic())

    def _on_executed(self, message: ExecutedAction) -> None:
        self._logic.on_executed(message.executed)

    def _publish(self) -> None:
        action, active = self._logic.action(monotonic())
        self._publisher.publish(
            TeleopAction(
                header=Header(stamp=self.get_clock().now().to_msg()),
                action=to_msg.floats(action),
                active=active,
                source=TeleopAction.HUMAN,
            )
        )

    def _report(self) -> Report:
        now_s = monotonic()
        silent_s = self._logic.silent_s(now_s)
        active = self._logic.action(now_s)[1]
        offset = " ".join(f"{value:.3f}" for value in self._logic.offset)
        values = {"silent_s": f"{silent_s:.1f}", "active": str(active), "resting_offset": offset}
        missing = unpublished(self, [self._topic, self._joy_topic])
        if missing:
            return Report(WARN, f"{'; '.join(missing)}: is the spacenav node running?", values)
        if silent_s > SILENT_S:
            return Report(WARN, f"{self._topic}: no messages: is spacenavd running?", values)
        return Report(OK, "teleoperation ready", values)


def main() -> None:
    """Run the node."""
    sys.exit(run_node(TeleopNode))
