"""The observer as a process in real time: rate, refused input, faults by name."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, WrenchStamped
from sensor_msgs.msg import JointState

from rldg_core.frames import pose
from rldg_core.from_msg import stamp_ns
from rldg_core.image_codec import decode_jpeg
from rldg_msgs.msg import Observation
from rldg_ros import to_msg
from rldg_ros.qos import STREAM, VENDOR_STATE

DOMAIN = 217

MEASURED = pose([0.51, 0.0, 0.19], [1.0, 0.0, 0.0, 0.0])


def test_observer_keeps_its_rate_and_names_faults(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN)
    statuses = rig.record_statuses()
    process = rig.start("observer")
    sensors = rig.publish_sensors()
    times: list[float] = []
    rig.bench.create_subscription(Observation, "observation", lambda _m: times.append(monotonic()), STREAM)
    rig.until(lambda: len(times) >= 25, what="observations")
    assert abs(float(np.median(np.diff(times[3:]))) - 0.1) < 0.01
    seen = rig.bench.observations[-1]
    assert seen.header.frame_id == "base"
    assert decode_jpeg(bytes(seen.images[0].data)).shape == (64, 64, 3)
    stamps = [stamp_ns(o.header.stamp) for o in rig.bench.observations]
    assert stamps == sorted(set(stamps)), "every observation has its own image"

    for changes, expected in (
        ({"encoding": "16UC1"}, "/camera/image: image encoding is '16UC1', expected one of"),
        ({"width": 32}, "/camera/image: image is 32x64, the task expects 64x64"),
    ):
        sensors.changes = changes
        rig.until(lambda e=expected: statuses.newest("observer").startswith(e), what=expected)
        count = len(times)
        rig.spin_for(0.3)
        assert len(times) == count, "no observation from unusable input"
        sensors.changes = {}
        rig.until(lambda c=count: len(times) > c + 1, what="recovery")
    sensors.state = False
    rig.until(lambda: "pose: last message" in statuses.newest("observer"), what="stale state")
    count = len(times)
    rig.spin_for(0.3)
    assert len(times) == count
    code, output = rig.end(process)
    assert code == 0, output


def test_observer_survives_any_message_and_names_each_fault(make_rig: Callable[..., Any]) -> None:
    """Send malformed CDR on every input, then impossible numbers, names, frames and stamps."""
    rig = make_rig(DOMAIN + 1)
    statuses = rig.record_statuses()
    process = rig.start("observer")
    sensors, bench = rig.publish_sensors(), rig.bench
    hand_out = bench.create_publisher(JointState, "/franka_gripper/joint_states", VENDOR_STATE)
    seen = bench.observations
    rig.until(lambda: len(seen) > 2 and hand_out.get_subscription_count(), what="observations")
    assert np.isnan(seen[-1].gripper_width_m) and seen[-1].images[0].header.frame_id == "camera_color_optical_frame"

    def recovered() -> None:
        enough = len(seen) + 3
        rig.until(lambda: len(seen) >= enough, what="recovery")

    for publisher in (bench.pose_out, bench.wrench_out, bench.joints_out, bench.image_out, hand_out):
        sensors.replaced = {publisher: (b"\xff" * 40, 0.0)}
        line = f"{publisher.topic}: message refused: malformed CDR: 40 bytes are no "
        rig.until(lambda e=line: statuses.value("observer", "refused_newest").startswith(e), what=line)
        sensors.replaced = {}
        recovered()

    head = lambda: to_msg.header(sensors.now_ns(), "")  # noqa: E731
    nan_wrench = WrenchStamped(wrench=to_msg.wrench([0, 0, float("nan"), 0, 0, 0]))
    in_base = WrenchStamped(header=to_msg.header(0, "base"))
    late = PoseStamped(pose=to_msg.pose(MEASURED))
    fingers = JointState(name=["fr3_finger_joint1", "fr3_finger_joint2"], position=[1.44, 1.44])
    for publisher, message, late_s, expected in (
        (bench.wrench_out, nan_wrench, 0.0, "wrench: [0, 0, nan, 0, 0, 0], expected finite numbers"),
        (bench.wrench_out, in_base, 0.0, "frame_id is 'base', expected 'fr3_hand_tcp'"),
        (bench.joints_out, JointState(), 0.0, "joints are not named, expected joint1 to joint7"),
        (bench.pose_out, late, 0.7, "messages arrive, but by their stamps they are 0.7"),
        (hand_out, fingers, 0.0, "distance of the fingers: 2.88 m, expected 0 to 0.2 m"),
    ):
        sensors.replaced = {publisher: (message, late_s)}
        line = f"{publisher.topic}: {expected}"
        rig.until(lambda e=line: statuses.newest("observer").startswith(e), what=line)
        rig.spin_for(0.05)  # messages in transit
        count = len(seen)
        rig.spin_for(0.25)
        assert len(seen) == count, "no observation from unusable input"
        sensors.replaced = {}
        if publisher is hand_out:
            hand_out.publish(JointState(header=head(), name=fingers.name, position=[0.01, 0.02]))
        recovered()
    assert seen[-1].gripper_width_m == pytest.approx(0.03)
    rig.until(lambda: np.isnan(seen[-1].gripper_width_m), 5.0, "a width that nobody confirms is unknown")
    assert int(statuses.value("observer", "refused")) >= 5
    assert rig.end(process)[0] == 0


def test_observer_names_a_stopped_clock(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN + 2)
    statuses = rig.record_statuses()
    rig.start("observer", use_sim_time=True)
    rig.publish_sensors()
    expected = "the clock does not run: use_sim_time is true and nothing publishes /clock"
    rig.until(lambda: expected in statuses.newest("observer"), what=expected)
    assert not rig.bench.observations
