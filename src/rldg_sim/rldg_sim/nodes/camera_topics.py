"""What a camera's driver and the robot's description publish: the image, `camera_info` and `tf`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from rldg_core.frames import pose, rotation_of
from rldg_ros import to_msg
from rldg_ros.vendors import vendor_topic
from rldg_sim.cameras import Array, CameraView
from rldg_sim.cameras import Image as Pixels

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # part of every ROS installation, but not on PyPI
    TFMessage = None

TF_DEPTH = 100
"""Queue depth of tf2_ros."""


@dataclass(frozen=True)
class CameraFrames:
    """Names of frames. tcp: what the camera is mounted on; "": it stands in the base frame."""

    base: str
    tcp: str
    optical: str


class CameraTopics:
    """One camera. `camera_info` and `tf` are published only to subscribers: lock-step pays for every message.

    Transforms: base frame -> tcp frame -> optical frame, with each image; of a camera that stands, base -> optical.
    `tf` exists where tf2_msgs is installed.
    """

    def __init__(self, node: Node, image_topic: str, qos: QoSProfile, frames: CameraFrames) -> None:
        self._frames = frames
        self._image = node.create_publisher(Image, image_topic, qos)
        self._info = node.create_publisher(CameraInfo, f"{image_topic.rpartition('/')[0]}/camera_info", qos)
        self._tf = node.create_publisher(TFMessage, vendor_topic(node, "tf"), TF_DEPTH) if TFMessage else None

    def publish(self, stamp_ns: int, pixels: Pixels, find: Callable[[], CameraView], pose_base_tcp: Array) -> None:
        """Publish an image (H, W, 3); find: returns the camera as it took this image."""
        self._image.publish(image_message(stamp_ns, self._frames.optical, pixels))
        outputs = [self._info] if self._tf is None else [self._info, self._tf]
        if not any(output.get_subscription_count() for output in outputs):
            return
        view, frames = find(), self._frames
        if self._info.get_subscription_count():
            height, width, _ = pixels.shape
            self._info.publish(camera_info(stamp_ns, frames.optical, view, (width, height)))
        if self._tf and self._tf.get_subscription_count():
            if frames.tcp:
                at_tcp = _relative(pose_base_tcp, view.pose_base_optical)
                transforms = [
                    _transform(stamp_ns, frames.base, frames.tcp, pose_base_tcp),
                    _transform(stamp_ns, frames.tcp, frames.optical, at_tcp),
                ]
            else:
                transforms = [_transform(stamp_ns, frames.base, frames.optical, view.pose_base_optical)]
            self._tf.publish(TFMessage(transforms=transforms))


def image_message(stamp_ns: int, frame_id: str, pixels: Pixels) -> Image:
    """(H, W, 3) uint8 RGB -> sensor_msgs/Image."""
    height, width, _ = pixels.shape
    message = Image(header=to_msg.header(stamp_ns, frame_id), height=height, width=width, encoding="rgb8")
    message.step, message.data = 3 * width, to_msg.octets(pixels.tobytes())
    return message


def camera_info(stamp_ns: int, frame_id: str, view: CameraView, size_px: tuple[int, int]) -> CameraInfo:
    """A camera without distortion."""
    width, height = size_px
    k = view.intrinsics(width, height)
    return CameraInfo(
        header=to_msg.header(stamp_ns, frame_id),
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=k.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel().tolist(),
    )


def _relative(reference_base: Array, pose_base: Array) -> Array:
    """`pose_base` seen from `reference_base`, (7,) each."""
    back = rotation_of(reference_base).inv()
    turned = back * rotation_of(pose_base)
    return pose(back.apply(pose_base[:3] - reference_base[:3]), turned.as_quat())


def _transform(stamp_ns: int, parent: str, child: str, values: Array) -> TransformStamped:
    x, y, z, qx, qy, qz, qw = values.tolist()
    transform = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    return TransformStamped(header=to_msg.header(stamp_ns, parent), child_frame_id=child, transform=transform)
