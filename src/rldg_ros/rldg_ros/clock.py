"""Guards of a node's clock: a warning when /clock is missing, and `use_sim_time` made read-only."""

from __future__ import annotations

from rcl_interfaces.msg import ParameterDescriptor, ParameterType
from rclpy.node import Node

from rldg_ros.reporting import steady_timer

CLOCK_PATIENCE_S = 30.0
"""A simulation on a busy machine publishes its first /clock within 20 s."""


def watch_clock(node: Node, patience_s: float = CLOCK_PATIENCE_S) -> None:
    """Log one error when the node's clock still stands at 0 after `patience_s` of wall time.

    Until then the time is 0: messages are stamped with it, and timers on the node's clock never fire.
    """
    if not node.get_parameter("use_sim_time").value:
        return

    def check() -> None:
        timer.cancel()
        if not node.get_clock().now().nanoseconds:
            node.get_logger().error(
                f"use_sim_time is true and nobody has published /clock for {patience_s:.0f} s: the time is 0; "
                "start what publishes it, or set use_sim_time:=false (on a robot)"
            )

    timer = steady_timer(node, patience_s, check)


def make_sim_time_read_only(node: Node) -> None:
    """Make `use_sim_time` read-only, as every parameter of ours is; rclpy leaves it writable.

    Changed while the node runs, its time would jump to 0, or back by decades: stamps and ages would be wrong.
    """
    descriptor = ParameterDescriptor(
        name="use_sim_time",
        type=ParameterType.PARAMETER_BOOL,
        description="Time from /clock in place of the system's.",
        read_only=True,
    )
    node.set_descriptor("use_sim_time", descriptor)
