"""Names of driver topics, and topics that are decoded only on change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
import rclpy
from geometry_msgs.msg import Twist
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Joy

from rldg_ros import to_msg
from rldg_ros.subscriptions import refusals
from rldg_ros.vendors import ChangeFilter, PolledSubscriptions, vendor_topic

DOMAIN = 204


@pytest.fixture
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    yield context
    context.try_shutdown()


@pytest.mark.parametrize(
    ("namespace", "topic", "expected"),
    [
        ("/rldg", "spacenav/joy", "/spacenav/joy"),
        ("/robot1/rldg", "spacenav/joy", "/robot1/spacenav/joy"),
        ("/robot1/rldg", "/spacenav/joy", "/spacenav/joy"),
        ("/", "joy", "/joy"),
        ("/robot1", "joy", "/robot1/joy"),
    ],
)
def test_driver_topics_are_beside_our_namespace(context: Context, namespace: str, topic: str, expected: str) -> None:
    node = Node("n", namespace=namespace, context=context, use_global_arguments=False)
    assert vendor_topic(node, topic) == expected
    node.destroy_node()


def joy(stamp_s: int, *buttons: int) -> bytes:
    message = Joy(buttons=list(buttons), axes=[0.0] * 6)
    message.header.stamp.sec = stamp_s
    return bytes(serialize_message(message))


def test_only_changes_beyond_the_stamp_are_decoded() -> None:
    changed: list[list[int]] = []
    same: list[int] = []
    changes = ChangeFilter(Joy, lambda m: changed.append(list(m.buttons)), lambda: same.append(1))
    for stamp_s, buttons in enumerate([(0, 0), (0, 0), (0, 1), (0, 1), (0, 0), (0,)]):
        changes(joy(stamp_s, *buttons))
    assert changed == [[0, 0], [0, 1], [0, 0], [0]] and len(same) == 2


def test_message_without_a_header_is_compared_completely() -> None:
    changed: list[float] = []
    changes = ChangeFilter(Twist, lambda m: changed.append(m.linear.x), lambda: None)
    for value in (0.0, 1.0, 1.0, 2.0):
        changes(bytes(serialize_message(to_msg.twist([value, 0, 0, 0, 0, 0]))))
    assert changed == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("bad", [b"", b"\x00\x01\x00\x00", joy(1, 1)[:-3], b"\xff" * 40])
def test_malformed_message_is_refused_each_time(bad: bytes) -> None:
    changes = ChangeFilter(Joy, lambda m: None, lambda: pytest.fail("it is no repetition"))
    for _ in range(2):
        with pytest.raises(ValueError, match="malformed CDR"):
            changes(bad)


def test_polled_topics_lose_no_button_press_and_survive_malformed_messages(context: Context) -> None:
    node = Node("owner", namespace="/robot1/rldg", context=context, use_global_arguments=False)
    sender = Node("sender", context=context, use_global_arguments=False)
    out = sender.create_publisher(Joy, "/robot1/spacenav/joy", 10)
    seen: list[list[int]] = []
    changes = ChangeFilter(Joy, lambda m: seen.append(list(m.buttons)), lambda: None)
    PolledSubscriptions(node).add(Joy, vendor_topic(node, "spacenav/joy"), changes)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    deadline_s = monotonic() + 20
    while not out.get_subscription_count():
        assert monotonic() < deadline_s
        executor.spin_once(timeout_sec=0.01)
    for data in (joy(0, 0), joy(1, 0), b"\x00\x01\x00\x00\xff\xff\xff\xff", joy(2, 1), joy(3, 0)):
        out.publish(data)
    while len(seen) < 3 or not refusals(node).count:
        assert monotonic() < deadline_s, (seen, refusals(node).count)
        executor.spin_once(timeout_sec=0.01)
    assert seen == [[0], [1], [0]], "a press and its release between two polls are both seen"
    assert refusals(node).newest.startswith("/robot1/spacenav/joy: message refused: malformed CDR")
    executor.shutdown()
    node.destroy_node()
    sender.destroy_node()


GLOBAL = {"/clock", "/tf", "/tf_static", "/rosout", "/parameter_events"}
"""Names that ROS gives no namespace. /diagnostics is missing: nodes report through `Reporter`."""


def literals(node: ast.AST) -> Iterator[ast.Constant]:
    """Return the complete strings, without parts of f-strings."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Constant):
            yield child
        elif not isinstance(child, ast.JoinedStr):
            yield from literals(child)


def test_topic_names_in_nodes_respect_the_namespace() -> None:
    root = Path(__file__).parents[2]
    paths = sorted(root.glob("rldg_*/rldg_*/nodes/*.py"))
    names = [
        (f"{path.relative_to(root)}:{literal.lineno}", literal.value)
        for path in paths
        for literal in literals(ast.parse(path.read_text()))
        if isinstance(literal.value, str) and re.fullmatch(r"(/\w+)+", literal.value)
    ]
    assert ("/clock" in dict(names).values()) and not [name for name in names if name[1] not in GLOBAL]
