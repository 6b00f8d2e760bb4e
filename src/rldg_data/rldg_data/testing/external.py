"""Bags of another recorder: messages, motion and a mapping that fits them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

from rldg_core.frames import compose_delta
from rldg_data.external.importing import read_external
from rldg_data.external.mapping import ExternalMapping

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
SCALE = np.array([0.015] * 3 + [0.1] * 3)
TICKS = 12


def header(ns: int, frame: str = "base") -> Any:
    time = T["builtin_interfaces/msg/Time"](sec=ns // 10**9, nanosec=ns % 10**9)
    return T["std_msgs/msg/Header"](stamp=time, frame_id=frame)


def vector(values: Any) -> Any:
    return T["geometry_msgs/msg/Vector3"](*map(float, values))


def pose_message(pose: Any) -> Any:
    point = T["geometry_msgs/msg/Point"](*map(float, pose[:3]))
    return T["geometry_msgs/msg/Pose"](
        position=point, orientation=T["geometry_msgs/msg/Quaternion"](*map(float, pose[3:]))
    )


def stamped_pose(ns: int, pose: Any, frame: str = "base") -> Any:
    return T["geometry_msgs/msg/PoseStamped"](header=header(ns, frame), pose=pose_message(pose))


def transform(ns: int, pose: Any, child: str = "tcp") -> Any:
    turn = T["geometry_msgs/msg/Quaternion"](*map(float, pose[3:]))
    moved = T["geometry_msgs/msg/Transform"](translation=vector(pose[:3]), rotation=turn)
    return T["geometry_msgs/msg/TransformStamped"](header=header(ns), child_frame_id=child, transform=moved)


def twist(ns: int, values: Any, frame: str = "tcp") -> Any:
    moved = T["geometry_msgs/msg/Twist"](linear=vector(values[:3]), angular=vector(values[3:]))
    return T["geometry_msgs/msg/TwistStamped"](header=header(ns, frame), twist=moved)


def array(values: Any) -> Any:
    layout = T["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return T["std_msgs/msg/Float32MultiArray"](layout=layout, data=np.asarray(values, np.float32))


def raw_image(ns: int, image: Any, encoding: str = "rgb8") -> Any:
    height, width = image.shape[:2]
    padded = np.concatenate([image.reshape(height, -1), np.zeros((height, 4), np.uint8)], axis=1)
    return T["sensor_msgs/msg/Image"](
        header=header(ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=padded.shape[1],
        data=padded.reshape(-1),
    )


def compressed(ns: int, data: bytes, kind: str = "jpeg") -> Any:
    return T["sensor_msgs/msg/CompressedImage"](header=header(ns), format=kind, data=np.frombuffer(data, np.uint8))


def picture(number: int, size: int = 64) -> Any:
    return np.full((size, size, 3), [number * 5 % 256, 100, 200], np.uint8)


Messages = list[tuple[str, int, Any]]


def write_bag(path: Path, messages: Messages, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """messages: (topic, log time, message), in the order of writing."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for topic, log_ns, message in messages:
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            writer.write(connections[topic], log_ns, STORE.serialize_cdr(message, kind))
    return path


def trajectory(seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Poses at TICKS ticks and the normalised actions between them."""
    rng = np.random.default_rng(seed)
    pose = np.array([0.5, 0.1, 0.2, *Rotation.from_euler("xyz", [3.0, 0.1, 0.4]).as_quat()])
    poses, actions = [pose], []
    for _ in range(TICKS - 1):
        actions.append(rng.uniform(-0.9, 0.9, 6))
        poses.append(compose_delta(poses[-1], actions[-1] * SCALE))
    return poses, actions


def at(tick: float) -> int:
    return START_NS + round(tick * 100 * MS)


def observed(poses: list[Any]) -> Messages:
    found: Messages = []
    for k, pose in enumerate(poses):
        found.append(("/pose", at(k) + 7 * MS, stamped_pose(at(k), pose)))
        found.append(("/image", at(k) + 30 * MS, raw_image(at(k), picture(k))))
    return found


MAPPING: Mapping[str, Any] = {
    "task": "insertion",
    "object": "usb",
    "instruction": "insert the plug",
    "success": True,
    "cameras": {"wrist": {"topic": "/image", "size_px": 64}},
    "pose": {"topic": "/pose"},
    "action": {"kind": "target", "topic": "/target"},
}


def mapping(**changes: Any) -> ExternalMapping:
    return ExternalMapping.model_validate({**MAPPING, **changes})


def targets(poses: list[Any], actions: list[Any], delay: float = 0.3) -> Messages:
    return [
        ("/target", at(k + 0.4), stamped_pose(at(k + delay), compose_delta(poses[k], action * SCALE)))
        for k, action in enumerate(actions)
    ]


def only(*given: Any) -> list[Any]:
    """Steps of a bag that is one episode."""
    (found,) = read_external(*given)
    return found.steps


def executed(steps: list[Any]) -> Any:
    return np.array([step.action.executed for step in steps[:-1]])
