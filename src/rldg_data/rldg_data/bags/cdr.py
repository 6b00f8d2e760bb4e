"""Step <-> CDR bytes (XCDR1 little endian, what DDS carries and bags hold), without rclpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rldg_core import from_msg
from rldg_core.from_msg import NS_PER_S
from rldg_core.types import Step
from rldg_data.bags import step_cdr
from rldg_data.bags.schemas import STEP_TYPE, schema_text, typestore

_STAMPED_BYTES = step_cdr.HEADER_BYTES + 8


@lru_cache
def step_decoder(schema: str) -> Callable[[bytes], Step]:
    """Return a decoder of CDR bytes for a schema text: specialised for our own definition, generic for any other.

    Decoding raises rosbags' SerdeError, AttributeError or ValueError when the bytes do not match; this function
    raises ValueError when the text does not define a Step.
    """
    store = typestore(STEP_TYPE, schema)
    if store.hash_rihs01(STEP_TYPE) != step_cdr.LAYOUT_HASH:
        return lambda data: decode_generic(data, schema)

    def decode(data: bytes) -> Step:
        is_little_endian = data[:2] == step_cdr.LITTLE_ENDIAN
        return step_cdr.decode(data) if is_little_endian else decode_generic(data, schema)

    return decode


def decode_step(data: bytes, schema: str) -> Step:
    """Decode the CDR bytes of a Step by the schema text stored with them. Raises as `step_decoder`."""
    return step_decoder(schema)(data)


def decode_generic(data: bytes, schema: str) -> Step:
    """`decode_step` for any definition that has the fields of a Step."""
    return from_msg.step(typestore(STEP_TYPE, schema).deserialize_cdr(data, STEP_TYPE))


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a CDR message that begins with a std_msgs/Header; 0 when it is too short or before the epoch."""
    if len(data) < _STAMPED_BYTES:
        return 0
    order: Literal["little", "big"] = "little" if data[1] & 1 else "big"
    sec, nanosec = data[step_cdr.HEADER_BYTES : _STAMPED_BYTES - 4], data[_STAMPED_BYTES - 4 : _STAMPED_BYTES]
    return max(0, int.from_bytes(sec, order, signed=True) * NS_PER_S + int.from_bytes(nanosec, order))


def encode_step(step: Step, frame_id: str = "base") -> bytes:
    """Encode a Step by the installed definition. The target pose, which a Step lacks, is set to the measured pose."""
    return bytes(typestore(STEP_TYPE, schema_text(STEP_TYPE)).serialize_cdr(_step(step, frame_id), STEP_TYPE))


def _step(step: Step, frame_id: str) -> SimpleNamespace:
    # Imported here: OpenCV is slow to import and not needed to read bags.
    from rldg_core.image_codec import JPEG_FORMAT

    seen, action = step.observation, step.action
    head = _header(seen.stamp_ns, frame_id)
    # The optical frame of a camera is not part of a Step.
    of_camera = _header(seen.stamp_ns, "")
    image = [
        SimpleNamespace(header=of_camera, format=JPEG_FORMAT, data=np.frombuffer(d, np.uint8))
        for d in seen.images.values()
    ]
    return SimpleNamespace(
        **_fields(step, "episode_id index step_count task object instruction seed reward"),
        **_fields(step, "terminated truncated is_first is_last success"),
        header=_header(seen.stamp_ns, ""),
        observation=SimpleNamespace(
            header=head,
            camera_names=list(seen.images),
            images=image,
            pose_base_tcp=_pose(seen.pose_base_tcp),
            twist_base_tcp=_vectors(seen.twist_base_tcp, "linear", "angular"),
            wrench_tcp=_vectors(seen.wrench_tcp, "force", "torque"),
            joint_positions=np.asarray(seen.joint_positions, dtype=np.float64),
            gripper_width_m=seen.gripper_width_m,
        ),
        action=SimpleNamespace(
            **_fields(action, "source action_clipped box_clipped policy_id policy_version"),
            header=_header(seen.stamp_ns, ""),
            observation_stamp=_time(action.observation_stamp_ns),
            requested=np.asarray(action.requested, dtype=np.float32),
            executed=np.asarray(action.executed, dtype=np.float32),
            target_base_tcp=_pose(seen.pose_base_tcp),
        ),
    )


def _fields(value: Any, names: str) -> Mapping[str, Any]:
    return {name: getattr(value, name) for name in names.split()}


def _time(stamp_ns: int) -> SimpleNamespace:
    return SimpleNamespace(sec=stamp_ns // NS_PER_S, nanosec=stamp_ns % NS_PER_S)


def _header(stamp_ns: int, frame_id: str) -> SimpleNamespace:
    return SimpleNamespace(stamp=_time(stamp_ns), frame_id=frame_id)


def _vector(values: NDArray[np.float64]) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip("xyzw", map(float, values), strict=False)))


def _vectors(values: NDArray[np.float64], first: str, second: str) -> SimpleNamespace:
    return SimpleNamespace(**{first: _vector(values[:3]), second: _vector(values[3:])})


def _pose(values: NDArray[np.float64]) -> SimpleNamespace:
    return SimpleNamespace(position=_vector(values[:3]), orientation=_vector(values[3:]))
