"""A node that waits for an unpublished clock reports it once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock as ClockMsg

from rldg_ros import to_msg
from rldg_ros.clock import make_sim_time_read_only, watch_clock

DOMAIN = 132
DEADLINE_S = 10.0
PATIENCE_S = 0.2


@pytest.fixture
def context() -> Iterator[rclpy.Context]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    yield context
    rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ("use_sim_time", "clock_runs", "lines"), [(True, False, 1), (True, True, 0), (False, False, 0)]
)
def test_stopped_clock_is_reported_once(
    context: rclpy.Context, monkeypatch: pytest.MonkeyPatch, use_sim_time: bool, clock_runs: bool, lines: int
) -> None:
    overrides = [Parameter("use_sim_time", value=use_sim_time)]
    node = Node("waits", context=context, parameter_overrides=overrides)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    if clock_runs:
        publisher = node.create_publisher(ClockMsg, "/clock", 10)
        node.create_timer(0.02, lambda: publisher.publish(ClockMsg(clock=to_msg.time(10**9))), clock=_steady())
        end = time.monotonic() + DEADLINE_S
        while node.get_clock().now().nanoseconds != 10**9:
            assert time.monotonic() < end, "no clock message arrives"
            executor.spin_once(timeout_sec=0.02)
    logged: list[str] = []
    monkeypatch.setattr(node, "get_logger", lambda: SimpleNamespace(error=logged.append))
    watch_clock(node, PATIENCE_S)
    fired: list[bool] = []
    node.create_timer(4 * PATIENCE_S, lambda: fired.append(True), clock=_steady())
    end = time.monotonic() + DEADLINE_S
    while not fired:
        assert time.monotonic() < end, "the timer does not fire"
        executor.spin_once(timeout_sec=0.02)
    assert len(logged) == lines
    assert all("nobody has published /clock" in line for line in logged)
    node.destroy_node()


@pytest.mark.parametrize("use_sim_time", [False, True])
def test_clock_of_a_running_node_is_unchanged(context: rclpy.Context, use_sim_time: bool) -> None:
    node = Node("keeps", context=context, parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)])
    make_sim_time_read_only(node)
    before = node.get_clock().ros_time_is_active
    (result,) = node.set_parameters([Parameter("use_sim_time", value=not use_sim_time)])
    assert not result.successful and "read-only parameter: use_sim_time" in result.reason
    assert node.get_clock().ros_time_is_active == before == use_sim_time
    assert node.describe_parameter("use_sim_time").description
    node.destroy_node()


def _steady() -> rclpy.clock.Clock:
    return rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
