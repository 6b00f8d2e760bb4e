"""Diagnostics (REP-107) and steady timers, for every node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.timer import Timer

from rldg_core.errors import one_line
from rldg_ros.log import Log
from rldg_ros.subscriptions import refusals

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(?!\w)")
"""A number that is not part of a name."""

STARTING_S = 10.0
"""Time after the start in which a node logs no warning, since the other nodes are starting, too."""


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """Create a timer that does not depend on the ROS clock."""
    return node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))


@dataclass(frozen=True)
class Report:
    """One status: level OK, WARN or ERROR, one line, and values."""

    level: bytes
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def field_values(message: Any) -> dict[str, str]:
    """Return the fields of a status message as values, except for its header."""
    names = [name for name in message.get_fields_and_field_types() if name != "header"]
    return {name: str(getattr(message, name)) for name in names}


def unpublished(node: Node, topics: Iterable[str]) -> list[str]:
    """Return one line for each topic that no node publishes."""
    names = (node.resolve_topic_name(topic) for topic in topics)
    return [f"nobody publishes {name}" for name in names if not node.count_publishers(name)]


@dataclass
class Fault:
    """Fault that another node reports; since_s: monotonic time of its first report."""

    message: str = ""
    since_s: float = 0.0

    def update(self, message: str, now_s: float) -> None:
        """Take the newest report; "": no fault."""
        if bool(message) != bool(self.message):
            self.since_s = now_s
        self.message = message

    def lasts(self, duration_s: float, since_s: float) -> bool:
        """Return whether the fault has lasted for `duration_s`, counted from `since_s` at the earliest."""
        return bool(self.message) and monotonic() - max(self.since_s, since_s) > duration_s

    def because(self) -> str:
        """Return `: <message>`, or "" without a fault."""
        return f": {self.message}" if self.message else ""


class Reporter:
    """Publishes a node's status on /diagnostics at 1 Hz and on `publish`; logs each change of its message once.

    A message in which only numbers have changed, such as an age or a count, is not logged again.
    log_changes: False for a node that logs its own events, each of them at once.
    """

    def __init__(self, node: Node, read: Callable[[], Report], log_changes: bool = True) -> None:
        self._node, self._read, self._log_changes = node, read, log_changes
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._last = ""
        self._started_s = monotonic()
        self._timer = steady_timer(node, 1.0, self.publish)

    def publish(self) -> None:
        """Read the status and publish it."""
        report, refused = self._read(), refusals(self._node)
        text = one_line(report.message)
        values = dict(report.values)
        if refused.count:
            values |= {"refused_messages": str(refused.count), "refused_newest": refused.newest}
        starts = report.level == WARN and monotonic() - self._started_s < STARTING_S
        words = NUMBER.sub("", text)
        if self._log_changes and words != self._last and not starts:
            self._last = words
            if report.level == OK:
                Log(self._node).info(text)
            else:
                Log(self._node).warning(text)
        status = DiagnosticStatus(
            level=report.level,
            name=self._node.get_fully_qualified_name(),
            message=text,
            hardware_id="rldg",
            values=[KeyValue(key=key, value=one_line(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def close(self) -> None:
        """Stop reporting (lifecycle clean-up)."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
