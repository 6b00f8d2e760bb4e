"""The gripper node as a process: executed actions become widths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from std_msgs.msg import Float64

from rldg_msgs.msg import ExecutedAction
from rldg_ros import to_msg
from rldg_ros.qos import STREAM, TARGET

DOMAIN = 37


def test_gripper_commands_a_width_after_the_debounce(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN, changes={"action": {"gripper": True}})
    widths: list[float] = []
    rig.bench.create_subscription(Float64, "/gripper_width_command", lambda m: widths.append(m.data), TARGET)
    executed = rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    statuses = rig.record_statuses()
    rig.start("gripper", debounce_s=0.05)
    rig.until(lambda: statuses.newest("gripper") == "gripper ready", what="ready: an action's publisher and a listener")
    for value in (-1, 1):
        wanted = 0.08 if value > 0 else 0.0

        def act(value: int = value) -> None:
            message = ExecutedAction(executed=to_msg.floats([0, 0, 0, 0, 0, 0, value]), source=ExecutedAction.POLICY)
            message.header.stamp = rig.bench.get_clock().now().to_msg()
            executed.publish(message)

        act()
        rig.spin_for(0.06)  # the debounce
        act()
        rig.until(lambda w=wanted: bool(widths) and widths[-1] == w, what=f"width {wanted}")
    assert widths == [0.0, 0.08]


def test_restarted_gripper_ignores_earlier_actions(make_rig: Callable[..., Any]) -> None:
    """`executed_action` is transient-local: a late subscriber receives the last ten messages."""
    rig = make_rig(DOMAIN, changes={"action": {"gripper": True}})
    widths: list[float] = []
    rig.bench.create_subscription(Float64, "/gripper_width_command", lambda m: widths.append(m.data), TARGET)
    executed = rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    close = ExecutedAction(executed=to_msg.floats([0, 0, 0, 0, 0, 0, -1]), source=ExecutedAction.POLICY)
    close.header.stamp = to_msg.time(rig.bench.get_clock().now().nanoseconds - 2 * 10**9)
    executed.publish(close)
    statuses = rig.record_statuses()
    rig.start("gripper")
    rig.until(lambda: statuses.newest("gripper") == "gripper ready", what="ready")
    rig.until(lambda: statuses.value("gripper", "stale_actions") == "1", what="the old action is counted")
    assert not widths


def test_gripper_without_franka_msgs_is_refused(make_rig: Callable[..., Any]) -> None:
    try:
        import franka_msgs.action  # noqa: F401

        pytest.skip("franka_msgs is installed")
    except ImportError:
        pass
    process = make_rig(DOMAIN).start("gripper", mode="actions")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert len(output.strip().splitlines()) == 1
    assert "parameter mode: actions needs franka_msgs, which is not installed" in output
