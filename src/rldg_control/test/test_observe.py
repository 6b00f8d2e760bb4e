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
    NewestInputs,
    ObservationBuilder,
    TwistEstimator,
    decode_image,
    gripper_width,
    observe_camera,
)
from rldg_core.errors import UserError
from rldg_core.frames import pose
from rldg_core.image_codec import decode_jpeg
from rldg_core.raw_image import ENCODINGS
from rldg_core.task import CameraConfig, CropConfig

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
def test_every_encoding_gives_the_same_picture(encoding: str, padding: int) -> None:
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
        (broken(data=b"12"), "/cam: 2 bytes with step 192 are no 64x48 rgb8 image"),
        (broken(step=100), "/cam: 9216 bytes with step 100 are no 64x48 rgb8 image"),
    ],
)
def test_a_wrong_image_is_one_line_with_topic_got_and_expected(message: Message, text: str) -> None:
    with pytest.raises(UserError) as error:
        decode_image(message, camera())
    assert str(error.value) == text


def test_crop_and_resize_of_an_image_that_is_not_square() -> None:
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
    # The other sign of the quaternion is the same rotation.
    np.testing.assert_allclose(estimator.update(3 * PERIOD_NS, end * [1, 1, 1, -1, -1, -1, -1]), np.zeros(6), atol=1e-9)


@pytest.mark.parametrize("stamp_ns", [3 * PERIOD_NS, PERIOD_NS, PERIOD_NS // 2])
def test_twist_is_zero_after_a_gap_a_standstill_of_time_and_time_going_back(stamp_ns: int) -> None:
    estimator = TwistEstimator(PERIOD_NS)
    estimator.update(PERIOD_NS, pose([0.5, 0, 0.2]))
    np.testing.assert_array_equal(estimator.update(stamp_ns, pose([0.6, 0, 0.2])), np.zeros(6))


parts = ("image", "joints", "pose", "wrench")


@settings(max_examples=60, deadline=None)
@given(st.permutations([part for part in parts for _ in range(3)]))
def test_frames_are_complete_have_one_stamp_and_come_in_order(order: list[str]) -> None:
    """Each topic keeps its order; how the topics interleave is arbitrary."""
    joiner, sent, frames = FrameJoiner(parts), dict.fromkeys(parts, 0), []
    for part in order:
        sent[part] += 1
        frames.append(joiner.add(part, sent[part], (part, sent[part])))
    complete = [frame for frame in frames if frame]
    assert complete == [{part: (part, stamp) for part in parts} for stamp in (1, 2, 3)]
    again = [joiner.add(part, stamp, None) for part in parts for stamp in (1, 2, 3)]
    assert again == [None] * len(again), "a latched topic that sends again makes no second frame"


def test_a_part_that_never_comes_does_not_fill_the_memory() -> None:
    joiner = FrameJoiner(parts)
    for stamp in range(100):
        assert joiner.add("pose", stamp, stamp) is None
    assert len(joiner._open) <= OPEN_FRAMES and joiner.missing() == ["image", "joints", "wrench"]


def test_stale_inputs_are_named() -> None:
    inputs = NewestInputs(("pose", "image"), 0.1)
    inputs.add("pose", b"1", 10.0)
    assert inputs.stale(10.1) == ["image: nothing received"]
    inputs.add("image", b"2", 10.15)
    assert inputs.stale(10.2) == []
    assert inputs.stale(10.3) == ["pose: last message 0.30 s ago, limit 0.20 s"]


def vendor(pose_values: list[float]) -> tuple[Message, Message, Message]:
    stamp = Message(sec=0, nanosec=PERIOD_NS)
    xyz, quat = pose_values[:3], pose_values[3:]
    position = Message(**dict(zip("xyz", xyz, strict=True)))
    orientation = Message(**dict(zip("xyzw", quat, strict=True)))
    zero = Message(x=0.0, y=0.0, z=3.0)
    return (
        Message(header=Message(stamp=stamp), pose=Message(position=position, orientation=orientation)),
        Message(wrench=Message(force=zero, torque=zero)),
        Message(position=[0.1] * 9),
    )


def test_an_observation_is_built_whole() -> None:
    builder = ObservationBuilder({"wrist": camera()}, PERIOD_NS)
    pose_message, wrench, joints = vendor([0.5, 0, 0.2, 1, 0, 0, 0])
    observation = builder.build({"wrist": image(RGB, "rgb8", stamp_ns=7)}, pose_message, wrench, joints)
    assert observation.stamp_ns == 7 and observation.joint_positions.shape == (7,)
    assert observation.wrench_tcp.tolist() == [0, 0, 3, 0, 0, 3] and np.isnan(observation.gripper_width_m)
    assert decode_jpeg(observation.images["wrist"]).shape == (32, 32, 3)


@pytest.mark.parametrize("bad", [[np.nan, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]])
def test_a_pose_that_is_none_is_refused(bad: list[float]) -> None:
    builder = ObservationBuilder({"wrist": camera()}, PERIOD_NS)
    with pytest.raises(UserError, match="is no pose"):
        builder.build({"wrist": image(RGB, "rgb8")}, *vendor(bad))


def test_gripper_width_is_the_sum_of_both_fingers() -> None:
    assert gripper_width(Message(position=[0.02, 0.02])) == pytest.approx(0.04)
    assert np.isnan(gripper_width(Message(position=[])))
