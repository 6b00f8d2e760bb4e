from __future__ import annotations

from types import SimpleNamespace as Message
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rldg_control.observe import (
    OPEN_FRAMES,
    FrameJoiner,
    Input,
    NewestInputs,
    ObservationBuilder,
    check_stamp,
    decode_image,
    observe_camera,
)
from rldg_core.errors import UserError
from rldg_core.frames import pose
from rldg_core.from_msg import ENCODINGS
from rldg_core.image_codec import decode_jpeg
from rldg_core.task import CameraConfig, CropConfig
from rldg_core.twist import TwistEstimator
from rldg_core.types import Observation

PERIOD_NS = 100_000_000
RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def camera(**changes: Any) -> CameraConfig:
    return CameraConfig(**{"topic": "/cam", "width": 64, "height": 48, "image_size": 32, **changes})


def image(pixels: np.ndarray, encoding: str, padding: int = 0, stamp_ns: int = 0) -> Message:
    height, width, depth = pixels.shape
    rows = np.zeros((height, width * depth + padding), dtype=np.uint8)
    rows[:, : width * depth] = pixels.reshape(height, -1)
    stamp = Message(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return Message(
        header=Message(stamp=stamp),
        encoding=encoding,
        width=width,
        height=height,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_every_encoding_gives_the_same_image(encoding: str, padding: int) -> None:
    pixels = RGB[..., ::-1] if encoding.startswith("bgr") else RGB
    if encoding.endswith("a8"):
        pixels = np.concatenate([pixels, np.full((48, 64, 1), 9, np.uint8)], axis=2)
    np.testing.assert_array_equal(decode_image(image(pixels, encoding, padding), camera()), RGB)


def broken(**changes: Any) -> Message:
    message = image(RGB, "rgb8")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (broken(encoding="16UC1"), f"/cam: image encoding is '16UC1', expected one of {', '.join(ENCODINGS)}"),
        (image(RGB[:40], "rgb8"), "/cam: image is 64x40, the task expects 64x48"),
        (broken(data=b"12"), "/cam: 2 bytes with step 192 do not hold a 64x48 rgb8 image"),
        (broken(step=100), "/cam: 9216 bytes with step 100 do not hold a 64x48 rgb8 image"),
    ],
)
def test_invalid_image_is_refused_with_topic_found_and_expected(message: Message, text: str) -> None:
    with pytest.raises(UserError) as error:
        decode_image(message, camera())
    assert str(error.value) == text


def test_image_that_is_not_square_is_cropped_and_resized() -> None:
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[8:40, 16:48] = 200
    jpeg = observe_camera(image(pixels, "rgb8"), camera(crop=CropConfig(x=16, y=8, width=32, height=32)))
    seen = decode_jpeg(jpeg)
    assert seen.shape == (32, 32, 3) and abs(int(seen.min()) - 200) < 4


def test_twist_is_the_mean_over_one_period_in_base_axes() -> None:
    estimator = TwistEstimator(PERIOD_NS)
    start = pose([0.5, 0, 0.2], [1, 0, 0, 0])
    turned = Rotation.from_rotvec([0, 0, 0.02]) * Rotation.from_quat(start[3:])
    end = np.concatenate([np.add(start[:3], [0.01, 0, -0.02]), turned.as_quat()])
    np.testing.assert_array_equal(estimator.update(PERIOD_NS, start), np.zeros(6))
    np.testing.assert_allclose(estimator.update(2 * PERIOD_NS, end), [0.1, 0, -0.2, 0, 0, 0.2], atol=1e-9)
    # The quaternion with opposite sign is the same rotation.
    np.testing.assert_allclose(estimator.update(3 * PERIOD_NS, end * [1, 1, 1, -1, -1, -1, -1]), np.zeros(6), atol=1e-9)


@pytest.mark.parametrize("stamp_ns", [3 * PERIOD_NS, PERIOD_NS, PERIOD_NS // 2])
def test_twist_is_zero_unless_the_stamp_follows_the_previous_one(stamp_ns: int) -> None:
    estimator = TwistEstimator(PERIOD_NS)
    estimator.update(PERIOD_NS, pose([0.5, 0, 0.2]))
    np.testing.assert_array_equal(estimator.update(stamp_ns, pose([0.6, 0, 0.2])), np.zeros(6))


parts = ("image", "joints", "pose", "wrench")


@settings(max_examples=60, deadline=None)
@given(st.permutations([part for part in parts for _ in range(3)]))
def test_frames_are_complete_ordered_and_have_one_stamp(order: list[str]) -> None:
    """Each topic keeps its order; topics interleave arbitrarily."""
    joiner, sent, frames = FrameJoiner(parts), dict.fromkeys(parts, 0), []
    for part in order:
        sent[part] += 1
        frames.append(joiner.add(part, sent[part], (part, sent[part])))
    complete = [frame for frame in frames if frame]
    assert complete == [{part: (part, stamp) for part in parts} for stamp in (1, 2, 3)]
    again = [joiner.add(part, stamp, None) for part in parts for stamp in (1, 2, 3)]
    assert again == [None] * len(again), "repeated messages of a transient-local topic make no second frame"


def test_memory_is_bounded_while_a_topic_is_missing() -> None:
    joiner = FrameJoiner(parts)
    for stamp in range(100):
        assert joiner.add("pose", stamp, stamp) is None
    assert len(joiner._open) <= OPEN_FRAMES and joiner.missing() == ["image", "joints", "wrench"]


def test_stale_inputs_are_named_with_their_topics() -> None:
    inputs = NewestInputs({"pose": Input("/p", 0.2), "image": Input("/i", 0.2), "gripper": Input("/g", 2.0, False)})
    inputs.add("pose", b"1", 10.0)
    assert inputs.stale(10.1) == ["image: nothing received (/i)"]
    inputs.add("image", b"2", 10.15)
    assert inputs.stale(10.2) == []
    assert inputs.stale(10.2, needed=False) == ["gripper: nothing received (/g)"]
    assert inputs.stale(10.3) == ["pose: last message 0.30 s ago, limit 0.20 s (/p)"]


def test_old_gripper_width_is_discarded() -> None:
    inputs = NewestInputs({"pose": Input("/p", 0.2), "gripper": Input("/g", 2.0, False)})
    inputs.add("gripper", b"1", 10.0)
    inputs.add("pose", b"2", 11.9)
    assert inputs.fresh(11.9) == {"pose": b"2", "gripper": b"1"}
    assert inputs.fresh(12.05) == {"pose": b"2"}
    inputs.discard("pose")
    assert inputs.fresh(12.05) == {}


TOPICS = {"pose": "/pose", "wrench": "/wrench", "joints": "/joints", "gripper": "/hand"}
NAMES = [f"fr3_joint{k}" for k in range(1, 8)]
FINGERS = ["fr3_finger_joint1", "fr3_finger_joint2"]


def header(frame_id: str = "") -> Message:
    return Message(stamp=Message(sec=0, nanosec=PERIOD_NS), frame_id=frame_id)


def xyz(x: float = 0.0, y: float = 0.0, z: float = 3.0) -> Message:
    return Message(x=x, y=y, z=z)


def vendor(**changes: Any) -> dict[str, Message]:
    """Return the messages of one tick as published by franka_ros2."""
    messages = {
        "pose": Message(
            header=header("base"),
            pose=Message(position=xyz(0.5, 0.0, 0.2), orientation=Message(x=1.0, y=0.0, z=0.0, w=0.0)),
        ),
        "wrench": Message(header=header("fr3_hand_tcp"), wrench=Message(force=xyz(), torque=xyz())),
        "joints": Message(header=header("base"), name=NAMES, position=[0.1 * k for k in range(1, 8)]),
        "gripper": Message(header=header(), name=FINGERS, position=[0.02, 0.02]),
    }
    return {**messages, **changes}


def build(**changes: Any) -> Observation:
    builder = ObservationBuilder({"wrist": camera()}, PERIOD_NS, TOPICS)
    return builder.build({"wrist": image(RGB, "rgb8", stamp_ns=7)}, **vendor(**changes))


def test_observation_is_built_from_vendor_messages() -> None:
    observation = build()
    assert observation.stamp_ns == 7
    np.testing.assert_allclose(observation.joint_positions, np.arange(1, 8) / 10)
    assert observation.wrench_tcp.tolist() == [0, 0, 3, 0, 0, 3]
    assert observation.gripper_width_m == pytest.approx(0.04)
    assert decode_jpeg(observation.images["wrist"]).shape == (32, 32, 3)
    assert np.isnan(build(gripper=None).gripper_width_m)


@given(st.permutations(range(9)))
@settings(max_examples=30, deadline=None)
def test_merged_joint_topic_in_any_order_gives_the_same_observation(order: list[int]) -> None:
    names, positions = NAMES + FINGERS, [0.1 * k for k in range(1, 8)] + [0.02, 0.02]
    merged = Message(header=header(), name=[names[i] for i in order], position=[positions[i] for i in order])
    observation = build(joints=merged, gripper=merged)
    np.testing.assert_allclose(observation.joint_positions, np.arange(1, 8) / 10)
    assert observation.gripper_width_m == pytest.approx(0.04)


def pose_of(*values: float, frame_id: str = "base") -> Message:
    orientation = Message(**dict(zip("xyzw", values[3:], strict=True)))
    return Message(header=header(frame_id), pose=Message(position=xyz(*values[:3]), orientation=orientation))


def joints(names: list[str], positions: list[float]) -> Message:
    return Message(header=header(), name=names, position=positions)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"pose": pose_of(NAN, 0, 0, 1, 0, 0, 0)}, "/pose: pose: [nan, 0, 0, 1, 0, 0, 0], expected finite numbers"),
        ({"pose": pose_of(1e300, 0, 0, 1, 0, 0, 0)}, "/pose: pose: 1e+300 m from base, expected at most 2 m"),
        ({"pose": pose_of(0, 0, 0, 0, 0, 0, 0)}, "/pose: pose: quaternion xyzw [0, 0, 0, 0] has length 0, expected 1"),
        (
            {"pose": pose_of(0.5, 0, 0, 1, 0, 0, 0, frame_id="world")},
            "/pose: frame_id is 'world', expected 'base' (parameter base_frame)",
        ),
        (
            {"wrench": Message(header=header("base"), wrench=Message(force=xyz(), torque=xyz()))},
            "/wrench: frame_id is 'base', expected 'hand_tcp', with or without a prefix (parameter tcp_frame)",
        ),
        (
            {"wrench": Message(header=header("fr3_hand_tcp"), wrench=Message(force=xyz(NAN), torque=xyz()))},
            "/wrench: wrench: [nan, 0, 3, 0, 0, 3], expected finite numbers",
        ),
        ({"joints": joints([], [])}, "/joints: joints are not named, expected joint1 to joint7 of one robot"),
        ({"joints": joints(NAMES, [])}, "/joints: 7 joint names with 0 positions"),
        ({"joints": joints(NAMES[:6], [0.0] * 6)}, "/joints: joints are 'fr3_joint1'"),
        ({"joints": joints(NAMES, [0.0] * 6 + [90.0])}, "/joints: position: joint 7 is at 90, expected at most 6.38"),
        ({"gripper": joints(NAMES, [0.4] * 7)}, "/hand: joints are 'fr3_joint1', "),
        ({"gripper": joints(FINGERS, [])}, "/hand: 2 joint names with 0 positions"),
        ({"gripper": joints(FINGERS, [1.44, 1.44])}, "/hand: distance of the fingers: 2.88 m, expected 0 to 0.2 m"),
    ],
)
def test_contradicting_input_is_refused_with_topic_found_and_expected(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as error:
        build(**changes)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


@pytest.mark.parametrize("frame_id", ["", "/base", "base"])
def test_frames_of_the_base_are_accepted(frame_id: str) -> None:
    build(pose=pose_of(0.5, 0, 0, 1, 0, 0, 0, frame_id=frame_id))


@pytest.mark.parametrize(
    ("stamp", "now", "line"),
    [
        (10**9, 0, "the clock does not run: use_sim_time is true and nothing publishes /clock"),
        (0, 10**9, "header.stamp is not set, expected the time of the measurement"),
        (10**9, 1_700_000_000, "messages arrive, but by their stamps they are 0.70 s old, limit 0.20 s (a late driver"),
        (10**9, 10**8, "messages arrive, but by their stamps they are 0.90 s in the future, limit 0.20 s"),
    ],
)
def test_stamps_that_cannot_be_joined_are_refused(stamp: int, now: int, line: str) -> None:
    check_stamp(10**9, 1_150_000_000, 0.2)
    with pytest.raises(ValueError, match=r"clock|stamp") as error:
        check_stamp(stamp, now, 0.2)
    assert str(error.value).startswith(line)
