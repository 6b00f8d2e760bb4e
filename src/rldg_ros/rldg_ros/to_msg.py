"""Types -> messages. The inverse of rldg_core.from_msg."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, Twist, Wrench
from numpy.typing import ArrayLike
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from rldg_core.from_msg import NS_PER_S
from rldg_core.image_codec import JPEG_FORMAT
from rldg_core.types import ExecutedAction, Observation, Step
from rldg_msgs.msg import ExecutedAction as ExecutedActionMsg
from rldg_msgs.msg import Observation as ObservationMsg
from rldg_msgs.msg import Step as StepMsg


def time(stamp_ns: int) -> Time:
    """Nanoseconds -> builtin_interfaces/Time."""
    return Time(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def header(stamp_ns: int, frame_id: str = "") -> Header:
    """Header with a stamp and a frame."""
    return Header(stamp=time(stamp_ns), frame_id=frame_id)


def pose(values: ArrayLike) -> Pose:
    """(7,) position, quaternion xyzw -> Pose."""
    x, y, z, qx, qy, qz, qw = (float(v) for v in np.asarray(values, dtype=np.float64))
    message = Pose()
    message.position.x, message.position.y, message.position.z = x, y, z
    q = message.orientation
    q.x, q.y, q.z, q.w = qx, qy, qz, qw
    return message


def pose_stamped(values: ArrayLike, stamp_ns: int, frame_id: str) -> PoseStamped:
    """(7,) -> PoseStamped."""
    return PoseStamped(header=header(stamp_ns, frame_id), pose=pose(values))


def twist(values: ArrayLike) -> Twist:
    """(6,) linear, angular -> Twist."""
    message = Twist()
    v = [float(x) for x in np.asarray(values, dtype=np.float64)]
    message.linear.x, message.linear.y, message.linear.z = v[:3]
    message.angular.x, message.angular.y, message.angular.z = v[3:6]
    return message


def wrench(values: ArrayLike) -> Wrench:
    """(6,) force, torque -> Wrench."""
    message = Wrench()
    v = [float(x) for x in np.asarray(values, dtype=np.float64)]
    message.force.x, message.force.y, message.force.z = v[:3]
    message.torque.x, message.torque.y, message.torque.z = v[3:6]
    return message


def floats(values: ArrayLike) -> array[float]:
    """float32[] field; array.array skips rclpy's element-wise check."""
    return array("f", np.asarray(values, dtype=np.float32).tobytes())


def doubles(values: ArrayLike) -> array[float]:
    """float64[] field."""
    return array("d", np.asarray(values, dtype=np.float64).tobytes())


def octets(data: bytes) -> array[int]:
    """uint8[] field."""
    return array("B", data)


def observation(value: Observation, frame_id: str, image_frames: Sequence[str] = ()) -> ObservationMsg:
    """Observation -> message. frame_id: of the poses; image_frames: optical frame of each camera, "" when unknown."""
    head = header(value.stamp_ns, frame_id)
    heads = [header(value.stamp_ns, frame) for frame in image_frames] or [header(value.stamp_ns)] * len(value.images)
    return ObservationMsg(
        header=head,
        camera_names=list(value.images),
        images=[
            CompressedImage(header=one, format=JPEG_FORMAT, data=octets(data))
            for one, data in zip(heads, value.images.values(), strict=True)
        ],
        pose_base_tcp=pose(value.pose_base_tcp),
        twist_base_tcp=twist(value.twist_base_tcp),
        wrench_tcp=wrench(value.wrench_tcp),
        joint_positions=doubles(value.joint_positions),
        gripper_width_m=float(value.gripper_width_m),
    )


def executed_action(value: ExecutedAction, stamp_ns: int, target_base_tcp: ArrayLike) -> ExecutedActionMsg:
    """ExecutedAction -> message; `stamp_ns` is the time of sending, `target_base_tcp` (7,) what was published."""
    return ExecutedActionMsg(
        header=header(stamp_ns),
        observation_stamp=time(value.observation_stamp_ns),
        requested=floats(value.requested),
        executed=floats(value.executed),
        target_base_tcp=pose(target_base_tcp),
        source=int(value.source),
        action_clipped=value.action_clipped,
        box_clipped=value.box_clipped,
        policy_id=value.policy_id,
        policy_version=value.policy_version,
    )


def step(value: Step, frame_id: str = "base") -> StepMsg:
    """Step -> message (tests and tools; the episode node joins messages directly)."""
    head = header(value.observation.stamp_ns)
    return StepMsg(
        header=head,
        episode_id=value.episode_id,
        index=value.index,
        step_count=value.step_count,
        task=value.task,
        object=value.object,
        instruction=value.instruction,
        seed=value.seed,
        observation=observation(value.observation, frame_id),
        action=executed_action(value.action, value.observation.stamp_ns, value.observation.pose_base_tcp),
        reward=value.reward,
        terminated=value.terminated,
        truncated=value.truncated,
        is_first=value.is_first,
        is_last=value.is_last,
        success=value.success,
    )
