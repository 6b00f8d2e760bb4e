"""Topics of drivers: their names, and subscriptions for high rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.subscription import Subscription

from rldg_ros.reporting import steady_timer
from rldg_ros.subscriptions import decode, refusals

_ENCAPSULATION_BYTES = 4
_STAMP_BYTES = 8

POLL_S = 0.05
POLL_DEPTH = 100
"""Messages kept between two polls: at 1 kHz, a button press of some ms is not missed."""


def vendor_topic(node: Node, topic: str) -> str:
    """Name of a driver's topic, action or service: a relative one is resolved in the parent of namespace `rldg`."""
    return topic if topic.startswith("/") else f"{node.get_namespace().removesuffix('/rldg').rstrip('/')}/{topic}"


class ChangeFilter:
    """Decodes a serialised message only when it differs from the one before by more than its stamp.

    Call it with the bytes of a raw subscription. Raises ValueError on malformed CDR.
    """

    def __init__(self, kind: type[Any], on_change: Callable[[Any], None], on_same: Callable[[], None]) -> None:
        self._kind, self._on_change, self._on_same = kind, on_change, on_same
        stamped = next(iter(kind.get_fields_and_field_types()), "") == "header"
        self._begin = _ENCAPSULATION_BYTES + (_STAMP_BYTES if stamped else 0)
        self._body = b""

    def __call__(self, data: bytes) -> None:
        """Take one serialised message."""
        body = data[self._begin :]
        if body and body == self._body:
            self._on_same()
            return
        self._body = b""
        message = decode(data, self._kind)
        self._on_change(message)
        self._body = body


class PolledSubscriptions:
    """Subscriptions that are read every `POLL_S` instead of waking the executor for each message.

    The real SpaceMouse driver sends its buttons at about 890 Hz: one callback each costs 14 % of a core, and hardly
    less without decoding. Polling costs about 5 %, all of it in the middleware (benchmarks/joy.py).
    """

    def __init__(self, node: Node) -> None:
        self._owner = node
        # No executor knows this node. `ros2 node list` hides its name, and remappings are those of the owner.
        self._node = Node(
            f"_{node.get_name()}_polled",
            namespace=node.get_namespace(),
            context=node.context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._receivers: list[tuple[Subscription[Any], Callable[[bytes], None]]] = []
        steady_timer(node, POLL_S, self.poll)

    def add(self, kind: type[Any], topic: str, receive: Callable[[bytes], None]) -> None:
        """Subscribe; `receive` gets the bytes of each message in order. Refused messages are counted and reported."""
        name = self._owner.resolve_topic_name(topic)
        self._receivers.append((self._node.create_subscription(kind, name, receive, POLL_DEPTH, raw=True), receive))

    def poll(self) -> None:
        """Hand over what has arrived."""
        for subscription, receive in self._receivers:
            for _ in range(POLL_DEPTH):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is None:
                    break
                with refusals(self._owner).of(subscription.topic_name):
                    receive(taken[0])
