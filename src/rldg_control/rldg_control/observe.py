"""Build an Observation from driver messages. Without ROS: messages are read by attribute name.

Lock-step: `FrameJoiner` joins messages with equal stamps. Real time: the node takes the newest of
each at the control rate. Both use `ObservationBuilder`, so that training and serving run the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_core.from_msg import NS_PER_S, pose_array, stamp_ns, wrench_array
from rldg_core.image_codec import Image, policy_jpeg
from rldg_core.joints import arm_positions, finger_width_m, positions_of
from rldg_core.plausible import check_joints, check_pose, check_twist, check_width, check_wrench
from rldg_core.task import CameraConfig
from rldg_core.twist import TwistEstimator
from rldg_core.types import Float64, Observation

STALE_PERIODS = 2.0
"""Maximum age of an input, in control periods (docs/explanation/architecture.md, step semantics)."""

NO_CLOCK = "the clock does not run: use_sim_time is true and nothing publishes /clock"

GRIPPER_STALE_S = 2.0
"""Maximum age of a gripper width, which is unknown afterwards; drivers of hands publish at 15 Hz or more."""

OPEN_FRAMES = 8
"""Maximum number of incomplete sensor frames: memory stays bounded if a driver never sends one part."""


def decode_image(message: Any, camera: CameraConfig) -> Image:
    """sensor_msgs/Image -> (camera.height, camera.width, 3) uint8 RGB; row padding (`step`) is removed.

    Raises UserError naming the topic, what was found and what was expected.
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
    return policy_jpeg(decode_image(message, camera), camera)


def check_frame(frame_id: str, expected: str, parameter: str, any_prefix: bool = False) -> None:
    """Compare the frame of a message with the expected one; any_prefix: `arm_hand_tcp` also matches `hand_tcp`.

    An empty frame_id is accepted. Raises ValueError naming both and the parameter that sets the expected frame.
    """
    found = frame_id.removeprefix("/")
    if found in ("", expected) or (any_prefix and found.endswith((f"_{expected}", f"/{expected}"))):
        return
    prefixed = ", with or without a prefix" if any_prefix else ""
    raise ValueError(f"frame_id is {found[:60]!r}, expected {expected!r}{prefixed} (parameter {parameter})")


def check_stamp(message_stamp_ns: int, now_ns: int, limit_s: float) -> None:
    """Compare the stamp of a message with the current time; image, pose and action are joined by their stamps.

    Raises ValueError with the age, the limit and possible causes.
    """
    if now_ns == 0:
        raise ValueError(NO_CLOCK)
    if message_stamp_ns == 0:
        raise ValueError("header.stamp is not set, expected the time of the measurement")
    age_s = (now_ns - message_stamp_ns) / NS_PER_S
    if abs(age_s) > limit_s:
        when = f"{age_s:.2f} s old" if age_s > 0 else f"{-age_s:.2f} s in the future"
        raise ValueError(
            f"messages arrive, but by their stamps they are {when}, limit {limit_s:.2f} s "
            "(a late driver, or a clock that differs from this machine's)"
        )


@contextmanager
def errors_of_topic(topic: str) -> Iterator[None]:
    """Turn a ValueError about a message into a UserError that names its topic."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{topic}: {error}") from error


class ObservationBuilder:
    """Vendor messages of one tick -> Observation. The stamp is the first camera's."""

    def __init__(
        self,
        cameras: Mapping[str, CameraConfig],
        period_ns: int,
        topics: Mapping[str, str],
        base_frame: str = "base",
        tcp_frame: str = "hand_tcp",
        joint_names: Sequence[str] = (),
        finger_names: Sequence[str] = (),
    ) -> None:
        """topics: of `pose`, `wrench`, `joints` and `gripper`, for errors; frames: of the pose and of the wrench.

        joint_names (7), finger_names (2): of the robot; empty: `<any prefix>joint1` and the like.
        """
        self._joint_names, self._finger_names = joint_names, finger_names
        self._cameras, self._topics = dict(cameras), topics
        self._base_frame, self._tcp_frame = base_frame, tcp_frame
        self._twist = TwistEstimator(period_ns)

    def build(
        self, images: Mapping[str, Any], pose: Any, wrench: Any, joints: Any, gripper: Any | None = None
    ) -> Observation:
        """images: camera name -> Image; pose: PoseStamped; wrench: WrenchStamped; joints, gripper: JointState.

        Joints and fingers are found by name, frames are compared, and every number is checked
        (rldg_core.plausible). Raises UserError naming topic, what was found and what was expected.
        """
        with errors_of_topic(self._topics["pose"]):
            check_frame(pose.header.frame_id, self._base_frame, "base_frame")
            pose_base_tcp = pose_array(pose.pose)
            check_pose(pose_base_tcp, "pose")
        with errors_of_topic(self._topics["wrench"]):
            check_frame(wrench.header.frame_id, self._tcp_frame, "tcp_frame", any_prefix=True)
            wrench_tcp = wrench_array(wrench.wrench)
            check_wrench(wrench_tcp, "wrench")
        with errors_of_topic(self._topics["joints"]):
            joint_positions = self._joint_positions(joints)
            check_joints(joint_positions, "position")
        width_m = float("nan")
        if gripper is not None:
            with errors_of_topic(self._topics["gripper"]):
                width_m = self._width_m(gripper)
                check_width(width_m, "distance of the fingers")
        jpegs = {name: observe_camera(images[name], camera) for name, camera in self._cameras.items()}
        # Updated last, so that the twist never includes a pose that is in no observation.
        twist_base_tcp = self._twist.update(stamp_ns(pose.header.stamp), pose_base_tcp)
        with errors_of_topic(self._topics["pose"]):
            check_twist(twist_base_tcp, "velocity between two poses")
        return Observation(
            stamp_ns=stamp_ns(images[next(iter(self._cameras))].header.stamp),
            images=jpegs,
            pose_base_tcp=pose_base_tcp,
            twist_base_tcp=twist_base_tcp,
            wrench_tcp=wrench_tcp,
            joint_positions=joint_positions,
            gripper_width_m=width_m,
        )

    def _joint_positions(self, joints: Any) -> Float64:
        if self._joint_names:
            return positions_of(self._joint_names, joints.name, joints.position)
        return arm_positions(joints.name, joints.position)

    def _width_m(self, gripper: Any) -> float:
        if self._finger_names:
            return float(positions_of(self._finger_names, gripper.name, gripper.position).sum())
        return finger_width_m(gripper.name, gripper.position)


class FrameJoiner:
    """Joins the parts of a sensor frame by their common stamp (lock-step); returns each frame once."""

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


@dataclass(frozen=True)
class Input:
    """topic; limit_s: how old its newest message may be; needed: no observation is published without it.

    qos: what the driver offers (rldg_ros.qos.VENDOR_QOS).
    """

    topic: str
    limit_s: float
    needed: bool = True
    is_camera: bool = False
    qos: str = "best_effort"


class NewestInputs:
    """Keeps the newest serialised message of every input and its time of arrival (real time).

    Nothing is deserialised before a tick needs it: at vendor rates (state 1 kHz, images 30 Hz) that
    would cost half a core (docs/how-to/hardware.md). Ages are monotonic, so that clock jumps have no effect.
    """

    def __init__(self, inputs: Mapping[str, Input]) -> None:
        self._inputs = dict(inputs)
        self._newest: dict[str, tuple[float, bytes]] = {}

    def add(self, part: str, data: bytes, now_s: float) -> None:
        """Keep the newest `data` of `part`."""
        self._newest[part] = (now_s, data)

    def discard(self, part: str) -> None:
        """Forget a message that cannot be decoded."""
        self._newest.pop(part, None)

    def fresh(self, now_s: float) -> dict[str, bytes]:
        """Return the newest data of every input that is not older than its limit."""
        return {
            part: data for part, (came_s, data) in self._newest.items() if now_s - came_s <= self._inputs[part].limit_s
        }

    def stale(self, now_s: float, needed: bool = True) -> list[str]:
        """Return `<part>: <what is wrong> (<topic>)` for each input that never arrived or is too old."""
        lines = []
        for part, one in self._inputs.items():
            if one.needed is not needed:
                continue
            if part not in self._newest:
                lines.append(f"{part}: nothing received ({one.topic})")
            elif (age_s := now_s - self._newest[part][0]) > one.limit_s:
                lines.append(f"{part}: last message {age_s:.2f} s ago, limit {one.limit_s:.2f} s ({one.topic})")
        return lines
