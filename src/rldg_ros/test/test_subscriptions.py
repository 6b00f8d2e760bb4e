"""Guarded subscriptions, with a real publisher of malformed messages."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
import rclpy
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from rldg_core.errors import UserError
from rldg_ros.subscriptions import REPORTED_CAUSES, Refusals, decode, refusals, subscribe

DOMAIN = 171


class Rig:
    """A receiving and a sending node, spun together until a condition holds."""

    def __init__(self, context: Context) -> None:
        self.node = Node("listener", context=context, use_global_arguments=False)
        self.sender = Node("sender", context=context, use_global_arguments=False)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = monotonic() + 10.0
        while not condition():
            assert monotonic() < deadline_s, "the condition did not become true"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.sender.destroy_node()


@pytest.fixture
def rig() -> Iterator[Rig]:
    context = Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    value = Rig(context)
    yield value
    value.close()
    rclpy.try_shutdown(context=context)
    gc.collect()


def test_malformed_messages_are_counted_and_valid_ones_received(rig: Rig) -> None:
    heard: list[JointState] = []
    subscription = subscribe(
        rig.node, JointState, "joints", lambda data: heard.append(decode(data, JointState)), 20, raw=True
    )
    publisher = rig.sender.create_publisher(JointState, "joints", 20)
    rig.until(lambda: publisher.get_subscription_count() == 1)
    good = serialize_message(JointState(name=["fr3_joint1"], position=[0.5]))
    bad = [b"", b"\x00", b"\xff" * 64, good[: len(good) // 2], b"\x00\x01\x00\x00" + b"\xff" * 400]
    for data in (good, *bad, good):
        publisher.publish(data)
    rig.until(lambda: len(heard) == 2)
    assert refusals(rig.node).count == len(bad)
    cause = "malformed CDR: 404 bytes are no sensor_msgs/JointState"
    assert refusals(rig.node).newest == f"joints: message refused: {cause}"
    rig.node.destroy_subscription(subscription)


def test_exception_of_a_callback_refuses_the_message_with_its_place(rig: Rig) -> None:
    seen: list[float] = []
    subscribe(rig.node, JointState, "joints", lambda message: seen.append(message.position[0]), 20)
    publisher = rig.sender.create_publisher(JointState, "joints", 20)
    rig.until(lambda: publisher.get_subscription_count() == 1)
    publisher.publish(JointState())
    publisher.publish(JointState(position=[1.5]))
    rig.until(lambda: seen == [1.5])
    newest = refusals(rig.node).newest
    assert newest.startswith("joints: message refused: IndexError: array index out of range (test_subscriptions.py:")


def test_user_error_ends_the_node(rig: Rig) -> None:
    with pytest.raises(UserError, match="broken on purpose"), refusals(rig.node).of("topic"):
        raise UserError("broken on purpose")


def test_malformed_messages_do_not_flood_the_log() -> None:
    lines: list[str] = []
    value = Refusals(lines.append)
    for number in range(1000):
        value.add("topic", f"cause {number // 2} " + "x" * 5_000_000 * (number == 0))
    assert value.count == 1000
    assert len(lines) == REPORTED_CAUSES
    assert all(len(line) < 400 for line in lines)


@given(data=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: b"\x00\x01\x00\x00" + b)))
@settings(max_examples=300, deadline=None)
def test_decoding_raises_only_value_error(data: bytes) -> None:
    value: Any = None
    try:
        value = decode(data, JointState)
    except ValueError as error:
        assert str(error) == f"malformed CDR: {len(data)} bytes are no sensor_msgs/JointState"  # noqa: PT017
    else:
        assert isinstance(value, JointState)
