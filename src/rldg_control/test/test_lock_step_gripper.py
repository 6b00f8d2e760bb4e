"""The gripper in lock-step: one width for every executed action, independent of commands before a reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import JointState

from rldg_control.gripper_logic import GripperConfig, GripperLogic, LockStepGripper
from rldg_core.from_msg import stamp_ns
from rldg_core.types import Source
from rldg_msgs.msg import ExecutedAction
from rldg_ros import to_msg
from rldg_ros.qos import STREAM

DOMAIN = 112

PERIOD_NS = 100_000_000


def grip(value: float) -> list[float]:
    return [0.0] * 6 + [value]


def test_every_action_gives_one_width_and_a_reset_opens_the_gripper() -> None:
    gripper = LockStepGripper(GripperConfig(), PERIOD_NS)
    stamps = [2, 3, 4, 4, 3, 5, 7, 8]  # 4 and 3 are repeated; the cell was reset between 5 and 7
    values = [0, -1, 0, 1, 1, 0, 0, -1]
    widths = [gripper.on_executed(k * PERIOD_NS, grip(v), Source.POLICY) for k, v in zip(stamps, values, strict=True)]
    assert widths == [0.08, 0.0, 0.0, None, None, 0.0, 0.08, 0.0]


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), max_size=30))
def test_widths_equal_those_of_the_cell(values: list[float]) -> None:
    """Compare with Cell.step: above 0.5 opens, below -0.5 closes, anything else keeps the width."""
    gripper, expected = LockStepGripper(GripperConfig(), PERIOD_NS), 0.08
    for k, value in enumerate(values):
        expected = 0.08 if value > 0.5 else 0.0 if value < -0.5 else expected
        assert gripper.on_executed(k * PERIOD_NS, grip(value), Source.POLICY) == expected


def test_hold_keeps_the_width() -> None:
    gripper = LockStepGripper(GripperConfig(), PERIOD_NS)
    assert gripper.on_executed(PERIOD_NS, grip(-1), Source.POLICY) == 0.0
    assert gripper.on_executed(2 * PERIOD_NS, grip(1), Source.HOLD) == 0.0


def test_first_request_after_a_restart_is_sent_again() -> None:
    logic = GripperLogic(GripperConfig())
    assert logic.on_executed(grip(-1), Source.POLICY, 0.0) == 0.0
    assert logic.on_executed(grip(-1), Source.POLICY, 0.0) is None
    logic.restart()
    assert logic.commanded_m == 0.08
    assert logic.on_executed(grip(-1), Source.POLICY, 0.0) == 0.0


def test_node_answers_each_executed_action_with_its_stamp(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN, lockstep=True, changes={"action": {"gripper": True}})
    widths: list[JointState] = []
    rig.bench.create_subscription(JointState, "gripper_width", widths.append, STREAM)
    executed = rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    rig.start("gripper", lockstep=True)
    for k, value in enumerate([0.0, -1.0, 0.0, 1.0], start=1):
        message = ExecutedAction(executed=to_msg.floats(grip(value)), source=ExecutedAction.POLICY)
        message.observation_stamp = to_msg.time(k * PERIOD_NS)
        executed.publish(message)
        # The node may start after the first message, since these topics are transient-local.
        rig.until(lambda n=k: len(widths) == n, what=f"width {k}")
    assert [stamp_ns(w.header.stamp) for w in widths] == [k * PERIOD_NS for k in (1, 2, 3, 4)]
    assert [w.position[0] for w in widths] == pytest.approx([0.08, 0.0, 0.0, 0.08])
