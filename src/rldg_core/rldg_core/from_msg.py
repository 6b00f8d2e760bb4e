"""Convert messages to the types of `rldg_core.types` by attribute names alone.

Works on live rldg_msgs objects and on the objects that `rosbags` deserialises from a bag, so that live
and recorded data take one path. Imports no ROS package.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.types import ExecutedAction, Observation, Source, Step

CHANNELS: Mapping[str, tuple[int, int, int]] = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2),
    "bgra8": (2, 1, 0),
    "mono8": (0, 0, 0),
}
"""Packed encodings -> positions of red, green and blue within a pixel."""

CONVERSIONS: Mapping[str, str] = {
    "yuv422_yuy2": "COLOR_YUV2RGB_YUY2",
    "yuyv": "COLOR_YUV2RGB_YUY2",
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "nv21": "COLOR_YUV2RGB_NV21",
    "nv12": "COLOR_YUV2RGB_NV12",
    "bayer_rggb8": "COLOR_BayerRGGB2RGB",
    "bayer_bggr8": "COLOR_BayerBGGR2RGB",
    "bayer_gbrg8": "COLOR_BayerGBRG2RGB",
    "bayer_grbg8": "COLOR_BayerGRBG2RGB",
}
"""Encodings that OpenCV converts -> its conversion code. `yuv422` is UYVY, see sensor_msgs/image_encodings.hpp."""

ENCODINGS = (*CHANNELS, *CONVERSIONS)


def decode_raw(encoding: str, width: int, height: int, step: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes of an image message -> (height, width, 3) uint8 RGB; row padding (`step`, bytes per row) is removed.

    Raises ValueError on an unsupported encoding, or when size, step and number of bytes are inconsistent.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"image encoding is {encoding!r}, expected one of {', '.join(ENCODINGS)}")
    depth = _bytes_per_pixel(encoding)
    rows = height * _rows_per_line(encoding)
    halved = encoding in ("nv21", "nv12") or depth == 2
    if (
        width < 1
        or height < 1
        or step < width * depth
        or data.size != step * rows
        or (halved and width % 2)
        or rows.denominator != 1
    ):
        raise ValueError(f"{data.size} bytes with step {step} do not hold a {width}x{height} {encoding} image")
    pixels = data.reshape(int(rows), step)[:, : width * depth].reshape(int(rows), width, depth)
    if encoding in CHANNELS:
        return pixels if encoding == "rgb8" else np.ascontiguousarray(pixels[..., list(CHANNELS[encoding])])
    # OpenCV is slow to import, and most cameras do not need it.
    import cv2

    planes = np.ascontiguousarray(pixels if depth == 2 else pixels[..., 0])
    return np.asarray(cv2.cvtColor(planes, getattr(cv2, CONVERSIONS[encoding])), dtype=np.uint8)


def _bytes_per_pixel(encoding: str) -> int:
    """Bytes of a row; NV12 and NV21 have one luma byte per pixel and their chroma in the rows below."""
    if encoding in CHANNELS:
        return 1 if encoding == "mono8" else 4 if encoding.endswith("a8") else 3
    return 2 if encoding.startswith(("yu", "uy")) else 1


def _rows_per_line(encoding: str) -> Fraction:
    return Fraction(3, 2) if encoding.startswith("nv") else Fraction(1)


NS_PER_S = 1_000_000_000


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time -> nanoseconds."""
    return int(stamp.sec) * NS_PER_S + int(stamp.nanosec)


def image(message: Any) -> NDArray[np.uint8]:
    """sensor_msgs/Image -> (height, width, 3) uint8 RGB; row padding (`step`) is removed.

    Raises ValueError on an unsupported encoding or when the number of bytes does not match the size.
    """
    data: NDArray[np.uint8] = np.frombuffer(message.data, dtype=np.uint8)
    return decode_raw(str(message.encoding), int(message.width), int(message.height), int(message.step), data)


def pose_array(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/Pose -> (7,) position, quaternion xyzw."""
    p, q = message.position, message.orientation
    return np.array([p.x, p.y, p.z, q.x, q.y, q.z, q.w], dtype=np.float64)


def twist_array(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/Twist -> (6,) linear, angular."""
    v, w = message.linear, message.angular
    return np.array([v.x, v.y, v.z, w.x, w.y, w.z], dtype=np.float64)


def wrench_array(message: Any) -> NDArray[np.float64]:
    """geometry_msgs/Wrench -> (6,) force, torque."""
    f, t = message.force, message.torque
    return np.array([f.x, f.y, f.z, t.x, t.y, t.z], dtype=np.float64)


def images_by_camera(names: list[str], files: list[bytes]) -> dict[str, bytes]:
    """Join camera names and image files. Raises ValueError when their numbers differ or a name is there twice."""
    if len(names) != len(files):
        raise ValueError(f"observation has {len(names)} camera names and {len(files)} images")
    images = dict(zip(names, files, strict=True))
    if len(images) < len(names):
        raise ValueError(f"observation has a duplicate camera name: {', '.join(names)}")
    return images


def observation(message: Any) -> Observation:
    """rldg_msgs/Observation -> Observation. Raises ValueError when names and images do not match."""
    files = [bytes(memoryview(image.data)) for image in message.images]
    return Observation(
        stamp_ns=stamp_ns(message.header.stamp),
        images=images_by_camera(list(message.camera_names), files),
        pose_base_tcp=pose_array(message.pose_base_tcp),
        twist_base_tcp=twist_array(message.twist_base_tcp),
        wrench_tcp=wrench_array(message.wrench_tcp),
        joint_positions=np.asarray(message.joint_positions, dtype=np.float64),
        gripper_width_m=float(message.gripper_width_m),
    )


def executed_action(message: Any) -> ExecutedAction:
    """rldg_msgs/ExecutedAction -> ExecutedAction."""
    return ExecutedAction(
        observation_stamp_ns=stamp_ns(message.observation_stamp),
        requested=np.asarray(message.requested, dtype=np.float32),
        executed=np.asarray(message.executed, dtype=np.float32),
        source=Source(int(message.source)),
        action_clipped=bool(message.action_clipped),
        box_clipped=bool(message.box_clipped),
        policy_id=str(message.policy_id),
        policy_version=int(message.policy_version),
    )


def step(message: Any) -> Step:
    """rldg_msgs/Step -> Step."""
    return Step(
        episode_id=str(message.episode_id),
        index=int(message.index),
        step_count=int(message.step_count),
        task=str(message.task),
        object=str(message.object),
        instruction=str(message.instruction),
        seed=int(message.seed),
        observation=observation(message.observation),
        action=executed_action(message.action),
        reward=float(message.reward),
        terminated=bool(message.terminated),
        truncated=bool(message.truncated),
        is_first=bool(message.is_first),
        is_last=bool(message.is_last),
        success=bool(message.success),
    )
