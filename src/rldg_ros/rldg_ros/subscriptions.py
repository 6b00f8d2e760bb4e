"""Subscriptions that tolerate bad messages: each is counted and reported, and the node continues.

The middleware drops a malformed message on a subscription that decodes; on a raw one (`raw=True`) it arrives, and an
exception that leaves a callback ends the node and with it the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb
from typing import Any
from weakref import WeakKeyDictionary

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from rldg_core.errors import UserError, one_line
from rldg_ros.log import Log

REPORTED_CAUSES = 10
"""Maximum number of different causes that a node logs, so that bad messages cannot fill the log."""

LINE_CHARACTERS = 300


class Refusals:
    """Messages of one node's topics that could not be used. count: their number; newest: one line, or ""."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._causes: set[str] = set()
        self.count = 0
        self.newest = ""

    @contextmanager
    def of(self, topic: str) -> Iterator[None]:
        """Refuse the message of `topic` when the block raises. A UserError is raised again and ends the node."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            # A message from outside may make any library raise any exception; the node continues.
            self.add(topic, _cause(error))

    def add(self, topic: str, cause: str) -> None:
        """Count a message; log each cause once, and no more than `REPORTED_CAUSES` of them."""
        self.count += 1
        self.newest = one_line(f"{topic}: message refused: {cause}", LINE_CHARACTERS)
        if self.newest in self._causes or len(self._causes) >= REPORTED_CAUSES:
            return
        self._causes.add(self.newest)
        last = " (further causes are only counted)" if len(self._causes) == REPORTED_CAUSES else ""
        self._log(f"{self.newest}{last}")


_refusals: WeakKeyDictionary[Node, Refusals] = WeakKeyDictionary()


def refusals(node: Node) -> Refusals:
    """The refusals of a node, shared by all its subscriptions and shown in its diagnostics."""
    if node not in _refusals:
        _refusals[node] = Refusals(Log(node).error)
    return _refusals[node]


def subscribe(
    node: Node, kind: type[Any], topic: str, callback: Callable[[Any], object], qos: QoSProfile | int, raw: bool = False
) -> Subscription[Any]:
    """Subscribe; an exception that a message causes in `callback` is counted and reported once per cause.

    raw: `callback` receives the serialised bytes; `decode` them.
    """
    guard = refusals(node)

    def receive(message: Any) -> None:
        with guard.of(topic):
            callback(message)

    return node.create_subscription(kind, topic, receive, qos, raw=raw)


def decode(data: bytes, kind: type[Any]) -> Any:
    """Deserialise a raw message. Raises ValueError on malformed CDR."""
    try:
        return deserialize_message(data, kind)
    except Exception as error:
        name = f"{kind.__module__.partition('.')[0]}/{kind.__name__}"
        raise ValueError(f"malformed CDR: {len(data)} bytes are no {name}") from error


def _cause(error: Exception) -> str:
    """One line. Errors that checks do not raise on purpose say where they come from."""
    line = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, ValueError):
        return line
    where = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {line} ({Path(where.filename).name}:{where.lineno})"
