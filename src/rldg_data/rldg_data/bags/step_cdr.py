"""Decode the CDR bytes of the suite's own Step definition without a generic deserialiser.

Specialised for one definition, `LAYOUT_HASH`; `rldg_data.bags.cdr` uses it for schemas with that RIHS01 hash only, and
a test compares it with the generic path. CDR: little endian, numbers aligned to their size, counted from behind the
header. Functions without attributes, since they are called for every Step of every bag: each takes the message and the
offset where it begins to read, and returns what it read and the offset behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, error
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.from_msg import NS_PER_S, images_by_camera
from rldg_core.types import ExecutedAction, Observation, Source, Step

LAYOUT_HASH = "RIHS01_8da20bff2af134437afe311595749707f847a5cedc6558145278c219ff64e776"

HEADER_BYTES = 4
"""Representation identifier and options before the payload."""
LITTLE_ENDIAN = b"\x00\x01"
Unpack = Callable[..., Any]

_U32: Unpack = Struct("<I").unpack_from
_U64: Unpack = Struct("<Q").unpack_from
_STAMP: Unpack = Struct("<iI").unpack_from
_SOURCE: Unpack = Struct("<B??").unpack_from
_END: Unpack = Struct("<f?????").unpack_from
_FLOAT32: Unpack = Struct("<f").unpack_from
_STAMP_BYTES, _MEASURED, _POSE_BYTES, _SOURCE_BYTES, _END_BYTES = 8, 7 + 6 + 6, 7 * 8, 3, 4 + 5
_MAX_PADDING = 3
"""Bytes that may follow a message."""


def decode(data: bytes) -> Step:
    """Decode the little-endian CDR of a Step of LAYOUT_HASH. Raises ValueError on malformed bytes."""
    try:
        return _step(data)
    except error as reason:
        raise ValueError(f"message of {len(data)} bytes is too short: {reason}") from reason


def _step(data: bytes) -> Step:
    _, at = _header(data, HEADER_BYTES)
    episode_id, at = _string(data, at)
    index, at = _u32(data, at)
    step_count, at = _u64(data, at)
    task, at = _string(data, at)
    object_name, at = _string(data, at)
    instruction, at = _string(data, at)
    seed, at = _u64(data, at)
    observation, at = _observation(data, at)
    action, at = _action(data, at)
    at = _aligned4(at)
    reward, terminated, truncated, is_first, is_last, success = _END(data, at)
    excess = len(data) - at - _END_BYTES
    if excess > _MAX_PADDING:
        raise ValueError(f"{excess} bytes after the end of the Step")
    return Step(
        episode_id=episode_id,
        index=index,
        step_count=step_count,
        task=task,
        object=object_name,
        instruction=instruction,
        seed=seed,
        observation=observation,
        action=action,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        is_first=is_first,
        is_last=is_last,
        success=success,
    )


def _observation(data: bytes, at: int) -> tuple[Observation, int]:
    stamp_ns, at = _header(data, at)
    names = []
    count, at = _u32(data, at)
    for _ in range(count):
        name, at = _string(data, at)
        names.append(name)
    files = []
    count, at = _u32(data, at)
    for _ in range(count):
        _, at = _header(data, at)
        _, at = _string(data, at)
        begin, at = at, _skipped(data, at)
        files.append(data[_aligned4(begin) + 4 : at])
    measured, at = _floats(data, _aligned8(at), "<f8", _MEASURED)
    count, at = _u32(data, at)
    joint_positions, at = _floats(data, _aligned8(at) if count else at, "<f8", count)
    at = _aligned4(at)
    (width_m,) = _FLOAT32(data, at)
    observation = Observation(
        stamp_ns=stamp_ns,
        images=images_by_camera(names, files),
        pose_base_tcp=measured[:7],
        twist_base_tcp=measured[7:13],
        wrench_tcp=measured[13:],
        joint_positions=joint_positions,
        gripper_width_m=width_m,
    )
    return observation, at + 4


def _action(data: bytes, at: int) -> tuple[ExecutedAction, int]:
    _, at = _header(data, at)
    stamp_ns, at = _stamp(data, at)
    count, at = _u32(data, at)
    requested, at = _floats(data, at, "<f4", count)
    count, at = _u32(data, at)
    executed, at = _floats(data, at, "<f4", count)
    # A Step does not hold the target pose.
    at = _aligned8(at) + _POSE_BYTES
    source, action_clipped, box_clipped = _SOURCE(data, at)
    policy_id, at = _string(data, at + _SOURCE_BYTES)
    policy_version, at = _u64(data, at)
    action = ExecutedAction(
        observation_stamp_ns=stamp_ns,
        requested=requested,
        executed=executed,
        source=Source(source),
        action_clipped=action_clipped,
        box_clipped=box_clipped,
        policy_id=policy_id,
        policy_version=policy_version,
    )
    return action, at


def _aligned4(at: int) -> int:
    return (at + 3) & -4


def _aligned8(at: int) -> int:
    """Alignment counts from behind the header of 4 bytes."""
    return ((at + 3) & -8) + 4


def _u32(data: bytes, at: int) -> tuple[int, int]:
    at = _aligned4(at)
    return _U32(data, at)[0], at + 4


def _u64(data: bytes, at: int) -> tuple[int, int]:
    at = _aligned8(at)
    return _U64(data, at)[0], at + 8


def _stamp(data: bytes, at: int) -> tuple[int, int]:
    """builtin_interfaces/Time [ns]."""
    at = _aligned4(at)
    sec, nanosec = _STAMP(data, at)
    return sec * NS_PER_S + nanosec, at + _STAMP_BYTES


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Stamp of a std_msgs/Header [ns]."""
    stamp_ns, at = _stamp(data, at)
    return stamp_ns, _string(data, at)[1]


def _string(data: bytes, at: int) -> tuple[str, int]:
    begin, end = _aligned4(at) + 4, _skipped(data, at)
    if end == begin or data[end - 1]:
        raise ValueError(f"unterminated string at {begin}")
    return data[begin : end - 1].decode(), end


def _skipped(data: bytes, at: int) -> int:
    """Offset behind a sequence of bytes. Raises ValueError beyond the end of the message."""
    at = _aligned4(at)
    end: int = at + 4 + _U32(data, at)[0]
    if end > len(data):
        raise ValueError(f"{end - at - 4} bytes at {at + 4} exceed the message of {len(data)}")
    return end


def _floats(data: bytes, at: int, dtype: str, count: int) -> tuple[NDArray[Any], int]:
    """Copy, so that a Step does not keep its whole message alive."""
    values = np.frombuffer(data, dtype, count, at).copy()
    return values, at + values.nbytes
