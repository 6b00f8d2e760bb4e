"""Replay parity: what is read from a bag equals, bit for bit, what was published and what a subscriber received."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message
from test_recorder_node import closed, connected, node, publish, recorder, steps_out, stop, wait_until

from rldg_core import from_msg
from rldg_core.types import Source, Step
from rldg_data.bags import step_cdr
from rldg_data.bags.cdr import decode_generic
from rldg_data.bags.reading import bag_info, read_episode
from rldg_data.bags.schemas import STEP_TYPE, schema_text
from rldg_data.testing.steps import assert_same_steps, make_episode
from rldg_msgs.msg import Step as StepMsg
from rldg_ros.qos import STEPS

__all__ = ["node", "steps_out"]


def unusual_episode() -> list[Step]:
    """Return an episode with values at the limits of their types, which a decoder may lose."""
    steps = make_episode(4, image_size=64, episode_id="ü/✓", gripper=True)
    seen = steps[1].observation
    steps[1] = replace(
        steps[1],
        seed=2**64 - 1,
        step_count=2**63,
        reward=float(np.float32(-1e-40)),
        observation=replace(
            seen,
            images={"wrist": b"", "side ": bytes(range(256)), "ü": b"\0"},
            joint_positions=np.empty(0),
            gripper_width_m=float("nan"),
            twist_base_tcp=np.array([np.inf, -np.inf, np.nan, -0.0, 5e-324, 1e308]),
        ),
        action=replace(
            steps[1].action,
            requested=np.array([np.nan] * 7, np.float32),
            executed=np.empty(0, np.float32),
            source=Source.HOLD,
            action_clipped=True,
            box_clipped=True,
            policy_id="",
            policy_version=2**64 - 1,
        ),
    )
    return [replace(step, seed=steps[1].seed, instruction="") for step in steps]


def test_bag_holds_exactly_what_was_published(tmp_path: Path, node: Node, steps_out: Publisher) -> None:
    received: list[bytes] = []
    node.create_subscription(StepMsg, "step", received.append, STEPS, raw=True)
    episodes = [make_episode(30, seed=3, image_size=256), unusual_episode()]
    with recorder(tmp_path) as process:
        connected(node, steps_out, 2)
        for steps in episodes:
            publish(steps_out, steps)
        count = sum(map(len, episodes))
        wait_until(
            node, lambda: len(closed(tmp_path / "bags")) == 2 and len(received) == count, "two bags and their Steps"
        )
        assert stop(process)[0] == 0
    bags = closed(tmp_path / "bags")
    stored: list[bytes] = []
    for bag in bags:
        with bag_info(bag).file.open("rb") as stream:
            stored += [message.data for _, _, message in make_reader(stream).iter_messages()]
    # Between two processes, DDS fills the last word of a message with zeros; within the publisher's process it does
    # not.
    assert [data.ljust(-len(data) % 4 + len(data), b"\0") for data in received] == stored
    published = [step for steps in episodes for step in steps]
    assert_same_steps([step for bag in bags for step in read_episode(bag)], published)
    # Three decoders must agree: step_cdr, rosbags and rclpy.
    assert_same_steps([step_cdr.decode(data) for data in stored], published)
    schema = schema_text(STEP_TYPE)
    assert_same_steps([decode_generic(data, schema) for data in stored], published)
    assert_same_steps([from_msg.step(deserialize_message(data, StepMsg)) for data in received], published)
