"""Diagnostics: what Reporter publishes, and the faults of other nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Empty

from rldg_ros.reporting import OK, WARN, Fault, Report, Reporter, field_values, unpublished
from rldg_ros.subscriptions import refusals

DOMAIN = 179


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    node = Node("reporting", namespace="/rldg", context=context, use_global_arguments=False)
    yield node
    node.destroy_node()
    context.try_shutdown()


def spin_until(node: Node, condition: Callable[[], bool]) -> None:
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline_s = monotonic() + 10.0
    while not condition():
        assert monotonic() < deadline_s
        executor.spin_once(timeout_sec=0.05)
    executor.remove_node(node)
    executor.shutdown()


def test_report_has_one_line_and_counts_refused_messages(node: Node) -> None:
    seen: list[DiagnosticStatus] = []
    node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: seen.extend(m.status), 10)
    reporter = Reporter(node, lambda: Report(WARN, "two\nlines", {"key": "a\nb"}))
    spin_until(node, lambda: bool(seen))
    assert (seen[-1].name, seen[-1].level) == ("/rldg/reporting", WARN)
    assert "\n" not in seen[-1].message and "\n" not in seen[-1].values[0].value
    assert [v.key for v in seen[-1].values] == ["key"]
    refusals(node).add("topic", "bad")
    count = len(seen)
    reporter.publish()
    spin_until(node, lambda: len(seen) > count)
    values = {v.key: v.value for v in seen[-1].values}
    assert (values["refused_messages"], values["refused_newest"]) == ("1", "topic: message refused: bad")
    reporter.close()
    assert node.count_publishers("/diagnostics") == 0


def test_changes_are_logged_once_or_left_to_the_node(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    count = 0

    def read() -> Report:
        nonlocal count
        count += 1
        return Report(OK, f"camera_1: last message {count / 2} s ago" if count < 4 else f"camera_2: {count}")

    for log_changes, expected in ((True, ["last message 0.5 s ago", "4"]), (False, [])):
        count = 0
        reporter = Reporter(node, read, log_changes=log_changes)
        for _ in range(5):
            reporter.publish()
        reporter.close()
        assert [line.rpartition(": ")[2] for line in capfd.readouterr().err.splitlines()] == expected


def test_status_message_gives_its_fields_as_values() -> None:
    status = DiagnosticStatus(name="n", message="m", hardware_id="h")
    values = field_values(status)
    assert (values["name"], values["message"]) == ("n", "m")
    assert "header" not in field_values(DiagnosticArray())


def test_topics_without_a_publisher_are_named(node: Node) -> None:
    node.create_publisher(Empty, "here", 1)
    assert unpublished(node, ["here", "there"]) == ["nobody publishes /rldg/there"]


def test_fault_lasts_from_its_first_report() -> None:
    fault, now_s = Fault(), monotonic()
    assert fault.because() == "" and not fault.lasts(0.0, since_s=now_s - 9.0)
    fault.update("late", now_s - 5.0)
    fault.update("later", now_s)
    assert fault.because() == ": later"
    assert fault.lasts(4.0, since_s=now_s - 9.0)
    assert not fault.lasts(4.0, since_s=now_s - 1.0), "not before the given time"
    fault.update("", now_s)
    assert not fault.lasts(0.0, since_s=now_s - 9.0)
    assert Report(OK, "ready").values == {}
