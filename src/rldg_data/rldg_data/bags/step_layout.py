"""Steps of one episode, decoded in two strokes: what the first message had to be searched for stands there again.

Within an episode only numbers and the image change; names and lengths stay. `StepDecoder` remembers where the numbers
of the last message stood, and takes a message that has the same bytes in between. Everything else goes the long way,
`rldg_data.bags.step_cdr`, which also decides what is wrong with a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.from_msg import NS_PER_S
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_data.bags import step_cdr
from rldg_data.bags.step_cdr import HEADER_BYTES

_SOURCES = {int(source): source for source in Source}
_MAX_PADDING = 3
"""Bytes that may follow a message."""


class StepDecoder:
    """Callable: little-endian CDR of a Step -> Step. Raises ValueError as `step_cdr.decode`."""

    def __init__(self) -> None:
        self._layout: _Layout | None = None

    def __call__(self, data: bytes) -> Step:
        step = self._layout.decode(data) if self._layout else None
        if step is None:
            step = step_cdr.decode(data)
            self._layout = _layout_of(data, step)
        return step


@dataclass(frozen=True)
class _Frame:
    """Numbers at fixed places, and texts and counts that are the same in every message; padding may be anything."""

    struct: Struct
    fixed_of: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    numbers_of: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    fixed: tuple[Any, ...]

    def numbers(self, data: bytes, begin: int) -> tuple[Any, ...] | None:
        """The numbers; None when what is fixed differs or the message ends before."""
        if len(data) < begin + self.struct.size:
            return None
        values = self.struct.unpack_from(data, begin)
        return self.numbers_of(values) if self.fixed_of(values) == self.fixed else None


@dataclass(frozen=True)
class _Layout:
    """head: up to the image's bytes; tail: behind them, from the next multiple of 8 on; like: a Step laid out so."""

    head: _Frame
    tail: _Frame
    like: Step

    def decode(self, data: bytes) -> Step | None:
        """The Step; None when the message is laid out otherwise."""
        head = self.head.numbers(data, 0)
        if head is None:
            return None
        _, index, step_count, seed, sec, nanosec, _, size = head
        begin = self.head.struct.size
        base = _aligned(begin + size, 8)
        tail = self.tail.numbers(data, base)
        if tail is None or len(data) - base - self.tail.struct.size > _MAX_PADDING:
            return None
        measured, joints, width_m, _, acted_sec, acted_nanosec, requested, executed, _, *rest = tail
        source, action_clipped, box_clipped, policy_version, reward, terminated, truncated, first, last, success = rest
        if source not in _SOURCES:
            return None
        like, pose = self.like, np.frombuffer(measured, "<f8").copy()
        return Step(
            episode_id=like.episode_id,
            index=index,
            step_count=step_count,
            task=like.task,
            object=like.object,
            instruction=like.instruction,
            seed=seed,
            observation=Observation(
                stamp_ns=sec * NS_PER_S + nanosec,
                images=dict.fromkeys(like.observation.images, data[begin : begin + size]),
                pose_base_tcp=pose[:7],
                twist_base_tcp=pose[7:13],
                wrench_tcp=pose[13:],
                joint_positions=_array(joints, "<f8"),
                gripper_width_m=width_m,
            ),
            action=ExecutedAction(
                observation_stamp_ns=acted_sec * NS_PER_S + acted_nanosec,
                requested=_array(requested, "<f4"),
                executed=_array(executed, "<f4"),
                source=_SOURCES[source],
                action_clipped=action_clipped,
                box_clipped=box_clipped,
                policy_id=like.action.policy_id,
                policy_version=policy_version,
            ),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            is_first=first,
            is_last=last,
            success=success,
        )


def _array(data: bytes, dtype: str) -> NDArray[Any]:
    return np.frombuffer(data, dtype).copy() if data else np.empty(0, dtype)


def _aligned(at: int, size: int) -> int:
    """Alignment counts from behind the header."""
    return -((HEADER_BYTES - at) // size * size) + HEADER_BYTES


class _Walk:
    """Writes down the layout of one message. Every method moves on."""

    def __init__(self, data: bytes, begin: int, at: int) -> None:
        self.data, self.begin, self.at = data, begin, at
        self.formats = f"<{at - begin}x"
        self.is_fixed: list[bool] = []

    def number(self, kind: str, alignment: int = 0) -> _Walk:
        """A value that changes from message to message."""
        return self._value(kind, alignment or Struct(f"<{kind}").size, is_fixed=False)

    def stamp(self) -> _Walk:
        return self.number("i").number("I")

    def count(self) -> _Walk:
        """A length, which stays."""
        return self._value("I", 4, is_fixed=True)

    def text(self) -> _Walk:
        self.count()
        return self._value(f"{int.from_bytes(self.data[self.at - 4 : self.at], 'little')}s", 1, is_fixed=True)

    def _value(self, kind: str, alignment: int, *, is_fixed: bool) -> _Walk:
        begin = _aligned(self.at, alignment)
        self.formats += f"{begin - self.at}x{kind}"
        self.is_fixed.append(is_fixed)
        self.at = begin + Struct(f"<{kind}").size
        return self

    def frame(self) -> _Frame:
        """What was written down."""
        struct = Struct(self.formats)
        fixed, numbers = ([i for i, f in enumerate(self.is_fixed) if f == kind] for kind in (True, False))
        fixed_of = itemgetter(*fixed)
        return _Frame(struct, fixed_of, itemgetter(*numbers), fixed_of(struct.unpack_from(self.data, self.begin)))


def _layout_of(data: bytes, step: Step) -> _Layout | None:
    """The layout of a message that holds `step`; None when it has not exactly one camera. See Step.msg for the order.

    Headers' stamps repeat those of the observation: eight bytes that may change and are not looked at.
    """
    if len(step.observation.images) != 1:
        return None
    (image,) = step.observation.images.values()
    head = _Walk(data, 0, HEADER_BYTES).number("8s", 4).text().text().number("I").number("Q").text().text().text()
    head.number("Q").stamp().text().count().text().count().number("8s", 4).text().text().number("I")
    base = _aligned(head.at + len(image), 8)
    action = step.action
    tail = _Walk(data, base, base).number("152s", 8).count()
    joints = 8 * len(step.observation.joint_positions)
    tail.number(f"{joints}s", 8 if joints else 1).number("f").number("8s", 4).text().stamp()
    for values in (action.requested, action.executed):
        tail.count().number(f"{4 * len(values)}s", 4)
    tail.number("56s", 8).number("B").number("?").number("?").text().number("Q").number("f")
    for _ in range(5):
        tail.number("?")
    return _Layout(head.frame(), tail.frame(), step)
