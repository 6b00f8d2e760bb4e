"""Decode the CDR bytes of the suite's own Step definition without a generic deserialiser.

Specialised for one definition, `LAYOUT_HASH`; `rldg_data.bags.cdr` uses it for schemas with that RIHS01 hash only, and
a test compares it with the generic path. CDR: little endian, numbers aligned to their size from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct, error
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.from_msg import NS_PER_S
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
_POSE_BYTES, _END_BYTES = 7 * 8, 4 + 5


class _Reader:
    """Cursor in one message; alignment is relative to the end of the 4-byte header."""

    __slots__ = ("at", "data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.at = HEADER_BYTES

    def align4(self) -> int:
        return (self.at + 3) & -4

    def align8(self) -> None:
        self.at = ((self.at + 3) & -8) + 4

    def count(self) -> int:
        at = self.align4()
        self.at = at + 4
        return _U32(self.data, at)[0]  # type: ignore[no-any-return]

    def u64(self) -> int:
        self.align8()
        self.at += 8
        return _U64(self.data, self.at - 8)[0]  # type: ignore[no-any-return]

    def stamp_ns(self) -> int:
        at = self.align4()
        self.at = at + 8
        sec, nanosec = _STAMP(self.data, at)
        return sec * NS_PER_S + nanosec  # type: ignore[no-any-return]

    def skip(self, size: int) -> int:
        """Skip bytes and return their offset. Raises ValueError beyond the end."""
        at = self.at
        self.at = at + size
        if self.at > self.size:
            raise ValueError(f"{size} bytes at {at} exceed the message of {self.size}")
        return at

    def string(self) -> str:
        size = self.count()
        at = self.skip(size)
        if not size or self.data[self.at - 1]:
            raise ValueError(f"unterminated string at {self.at}")
        return self.data[at : self.at - 1].decode()

    def floats(self, dtype: str, size: int, count: int) -> NDArray[Any]:
        """Copy, so that a Step does not keep its whole message alive."""
        return np.frombuffer(self.data, dtype, count, self.skip(count * size)).copy()


def decode(data: bytes) -> Step:
    """Decode the little-endian CDR of a Step of LAYOUT_HASH. Raises ValueError on malformed bytes."""
    try:
        return _step(_Reader(data))
    except error as reason:
        raise ValueError(f"message of {len(data)} bytes is too short: {reason}") from reason


def _step(r: _Reader) -> Step:
    _header(r)
    episode_id, index, step_count = r.string(), r.count(), r.u64()
    task, object_name, instruction = r.string(), r.string(), r.string()
    seed = r.u64()
    observation = _observation(r)
    action = _action(r)
    at = r.align4()
    reward, terminated, truncated, is_first, is_last, success = _END(r.data, at)
    if r.size - at - _END_BYTES > 3:
        # Up to three bytes of padding are legal.
        raise ValueError(f"{r.size - at - _END_BYTES} bytes after the end of the Step")
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


def _header(r: _Reader) -> int:
    stamp = r.stamp_ns()
    r.string()
    return stamp


def _observation(r: _Reader) -> Observation:
    stamp = _header(r)
    names = [r.string() for _ in range(r.count())]
    files = []
    count = r.count()
    if count != len(names):
        raise ValueError(f"observation has {len(names)} camera names and {count} images")
    for _ in names:
        _header(r)
        r.string()
        size = r.count()
        at = r.skip(size)
        files.append(r.data[at : at + size])
    r.align8()
    measured = r.floats("<f8", 8, 19)
    joints = r.count()
    if joints:
        r.align8()
    joint_positions = r.floats("<f8", 8, joints)
    width = r.align4()
    r.at = width + 4
    return Observation(
        stamp_ns=stamp,
        images=dict(zip(names, files, strict=True)),
        pose_base_tcp=measured[:7],
        twist_base_tcp=measured[7:13],
        wrench_tcp=measured[13:],
        joint_positions=joint_positions,
        gripper_width_m=_FLOAT32(r.data, width)[0],
    )


def _action(r: _Reader) -> ExecutedAction:
    _header(r)
    stamp = r.stamp_ns()
    requested = r.floats("<f4", 4, r.count())
    executed = r.floats("<f4", 4, r.count())
    r.align8()
    r.skip(_POSE_BYTES)
    source, action_clipped, box_clipped = _SOURCE(r.data, r.skip(3))
    return ExecutedAction(
        observation_stamp_ns=stamp,
        requested=requested,
        executed=executed,
        source=Source(source),
        action_clipped=action_clipped,
        box_clipped=box_clipped,
        policy_id=r.string(),
        policy_version=r.u64(),
    )
