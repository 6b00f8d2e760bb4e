"""Assembling one Observation from what the vendors' drivers publish. Free of ROS: messages by attribute names.

Lock-step: `FrameJoiner` puts together what carries one stamp. Real time: the node takes the newest of
each at the control rate. Both feed `ObservationBuilder`, so that training and serving are the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_core.frames import rotation_of
from rldg_core.from_msg import NS_PER_S, pose_array, stamp_ns, wrench_array
from rldg_core.image_codec import Image, crop, encode_jpeg, resize
from rldg_core.task import CameraConfig
from rldg_core.types import Float64, Observation

STALE_PERIODS = 2.0
"""An input older than this many control periods is refused (docs/architecture.md, step semantics)."""

GAP_PERIODS = 1.5
"""A longer gap between two observations is a reset or a drop-out: no velocity is computed over it."""

OPEN_FRAMES = 8
"""Incomplete sensor frames that are kept; a driver that never sends one part must not fill the memory."""


def decode_image(message: Any, camera: CameraConfig) -> Image:
    """sensor_msgs/Image -> (camera.height, camera.width, 3) uint8 RGB; row padding (`step`) is removed.

    Raises UserError naming the topic, what came and what was expected.
    """
    try:
        pixels: Image = from_msg.image(message)
    except ValueError as error:
        raise UserError(f"{camera.topic}: {error}") from error
    height, width, _ = pixels.shape
    if (width, height) != (camera.width, camera.height):
        raise UserError(f"{camera.topic}: image is {width}x{height}, the task expects {camera.width}x{camera.height}")
    return pixels


def observe_camera(message: Any, camera: CameraConfig) -> bytes:
    """sensor_msgs/Image -> JPEG as policies see it: cropped, resized to a square, compressed.

    Raises UserError as `decode_image` does.
    """
    image = decode_image(message, camera)
    if camera.crop:
        image = crop(image, camera.crop.x, camera.crop.y, camera.crop.width, camera.crop.height)
    return encode_jpeg(resize(image, camera.image_size), camera.jpeg_quality)


def gripper_width(message: Any) -> float:
    """JointState of franka_gripper -> distance between the fingers [m] (sum of both); NaN without positions."""
    return float(sum(message.position)) if len(message.position) else float("nan")


class TwistEstimator:
    """Twist of the tcp (6,) in base axes [m/s, rad/s] by differentiating the measured pose.

    franka_ros2 publishes no measured twist (docs/hardware.md). The filter is the backward difference over
    one control period - the mean twist between two observations - so it has no state beyond the previous
    pose, needs no tuning and gives the same numbers in lock-step and in real time. Zero for the first
    pose, after a gap of more than `GAP_PERIODS` periods (a drop-out; a simulated reset, which must therefore
    move the clock on by two periods: an event would race with the first frame), and when time goes back.
    """

    def __init__(self, period_ns: int) -> None:
        self._gap_ns = int(GAP_PERIODS * period_ns)
        self._previous: tuple[int, Float64] | None = None

    def update(self, pose_stamp_ns: int, pose_base_tcp: Float64) -> Float64:
        """Return the twist at this pose, (6,) linear, angular."""
        previous, self._previous = self._previous, (pose_stamp_ns, pose_base_tcp)
        if previous is None or not 0 < pose_stamp_ns - previous[0] <= self._gap_ns:
            return np.zeros(6)
        elapsed_s = (pose_stamp_ns - previous[0]) / NS_PER_S
        turn_base = rotation_of(pose_base_tcp) * rotation_of(previous[1]).inv()
        return np.concatenate([pose_base_tcp[:3] - previous[1][:3], turn_base.as_rotvec()]) / elapsed_s


class ObservationBuilder:
    """Vendor messages of one tick -> Observation. The stamp is the first camera's."""

    def __init__(self, cameras: Mapping[str, CameraConfig], period_ns: int) -> None:
        self._cameras = dict(cameras)
        self._twist = TwistEstimator(period_ns)

    def build(
        self, images: Mapping[str, Any], pose: Any, wrench: Any, joints: Any, gripper: Any | None = None
    ) -> Observation:
        """images: camera name -> Image; pose: PoseStamped; wrench: WrenchStamped; joints, gripper: JointState.

        Raises UserError on an image or a pose that cannot be used.
        """
        pose_base_tcp = pose_array(pose.pose)
        if not np.all(np.isfinite(pose_base_tcp)) or abs(float(np.linalg.norm(pose_base_tcp[3:])) - 1.0) > 1e-2:
            raise UserError(f"measured pose {pose_base_tcp.round(4).tolist()} is no pose (position, unit quaternion)")
        jpegs = {name: observe_camera(images[name], camera) for name, camera in self._cameras.items()}
        return Observation(
            stamp_ns=stamp_ns(images[next(iter(self._cameras))].header.stamp),
            images=jpegs,
            pose_base_tcp=pose_base_tcp,
            twist_base_tcp=self._twist.update(stamp_ns(pose.header.stamp), pose_base_tcp),
            wrench_tcp=wrench_array(wrench.wrench),
            joint_positions=np.asarray(joints.position, dtype=np.float64)[:7],
            gripper_width_m=float("nan") if gripper is None else gripper_width(gripper),
        )


class FrameJoiner:
    """Collects the parts of one sensor frame by their common stamp (lock-step); each frame comes out once."""

    def __init__(self, parts: tuple[str, ...]) -> None:
        self._parts = frozenset(parts)
        self._open: dict[int, dict[str, Any]] = {}
        self._joined_ns = -1

    def add(self, part: str, frame_stamp_ns: int, message: Any) -> dict[str, Any] | None:
        """Add one part; return all parts when this one completes its frame. Older open frames are dropped then."""
        if frame_stamp_ns <= self._joined_ns:
            return None
        frame = self._open.setdefault(frame_stamp_ns, {})
        frame[part] = message
        if frame.keys() != self._parts:
            while len(self._open) > OPEN_FRAMES:
                del self._open[min(self._open)]
            return None
        self._joined_ns = frame_stamp_ns
        self._open = {stamp: parts for stamp, parts in self._open.items() if stamp > frame_stamp_ns}
        return frame

    def missing(self) -> list[str]:
        """Parts that the newest open frame lacks (all of them when none is open)."""
        newest = self._open[max(self._open)] if self._open else {}
        return sorted(self._parts - newest.keys())


class NewestInputs:
    """The newest serialised message of every input with the time it came (real time).

    Nothing is deserialised before a tick needs it: at vendor rates (state 1 kHz, images 30 Hz) that
    would cost half a core (docs/hardware.md). Ages are on the monotonic clock, so a clock that jumps
    or a driver on another host's clock does not matter.
    """

    def __init__(self, parts: tuple[str, ...], period_s: float) -> None:
        self._limit_s = STALE_PERIODS * period_s
        self._newest: dict[str, tuple[float, bytes]] = {}
        self._parts = parts

    def add(self, part: str, data: bytes, now_s: float) -> None:
        """Keep the newest `data` of `part`."""
        self._newest[part] = (now_s, data)

    def get(self, part: str) -> bytes | None:
        """Newest data of a part, however old."""
        return self._newest[part][1] if part in self._newest else None

    def stale(self, now_s: float) -> list[str]:
        """One `<part>: <what is wrong>` for every part that never came or is older than two periods."""
        lines = []
        for part in self._parts:
            if part not in self._newest:
                lines.append(f"{part}: nothing received")
            elif (age_s := now_s - self._newest[part][0]) > self._limit_s:
                lines.append(f"{part}: last message {age_s:.2f} s ago, limit {self._limit_s:.2f} s")
        return lines
