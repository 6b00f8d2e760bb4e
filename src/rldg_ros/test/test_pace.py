"""Real time and lock-step: QoS of driver topics, ages of messages, stamps and time-outs."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import pytest
import rclpy
from rclpy.clock import Clock, ClockType, ROSClock
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter

from rldg_ros.pace import LockStep, RealTime, pace_parameter
from rldg_ros.qos import STREAM, VENDOR_STATE

DOMAIN = 178


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    yield context
    context.try_shutdown()


def make_node(context: Context, lockstep: bool) -> Node:
    overrides = [Parameter("lockstep", value=lockstep)]
    return Node("paced", context=context, use_global_arguments=False, parameter_overrides=overrides)


@pytest.mark.parametrize(("lockstep", "name", "timers"), [(False, "real_time", 1), (True, "lock_step", 0)])
def test_parameter_selects_the_pace(context: Context, lockstep: bool, name: str, timers: int) -> None:
    node = make_node(context, lockstep)
    pace = pace_parameter(node)
    assert pace.name == name
    assert len(pace.watch(node, 1.0, lambda: None)) == timers
    node.destroy_node()


def test_real_time_uses_the_clock_and_the_qos_of_the_driver() -> None:
    pace, clock = RealTime(), Clock(clock_type=ClockType.SYSTEM_TIME)
    assert pace.vendor_qos(VENDOR_STATE) is VENDOR_STATE
    now_ns = clock.now().nanoseconds
    assert 2.0 <= pace.age_s(clock, now_ns - 2 * 10**9) < 60.0
    assert pace.sent_ns(clock, 5) >= now_ns
    assert (pace.arrival_ns(clock) or 0) >= now_ns
    assert pace.clock_runs(clock)


def test_real_time_without_a_clock_has_infinite_ages(context: Context) -> None:
    clock = ROSClock()
    clock._set_ros_time_is_active(True)
    assert not RealTime().clock_runs(clock)
    assert RealTime().age_s(clock, 5) == inf
    assert RealTime().arrival_ns(clock) is None, "a message keeps its own stamp"


def test_lock_step_loses_no_message_and_ignores_the_clock() -> None:
    pace, clock = LockStep(), Clock(clock_type=ClockType.SYSTEM_TIME)
    assert pace.vendor_qos(VENDOR_STATE) is STREAM
    assert (pace.age_s(clock, 5), pace.sent_ns(clock, 5), pace.clock_runs(clock)) == (0.0, 5, True)
    assert pace.arrival_ns(clock) is None, "bags repeat"
