"""Sensor frames from driver messages: joined by equal stamps (lock-step) or the newest of each (real time)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, Protocol

from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from rldg_control.observe import FrameJoiner, Input, NewestInputs, check_stamp, errors_of_topic
from rldg_core.errors import UserError
from rldg_core.from_msg import stamp_ns
from rldg_ros.pace import Pace
from rldg_ros.qos import VENDOR_QOS
from rldg_ros.reporting import steady_timer
from rldg_ros.subscriptions import decode, refusals, subscribe

Frame = Mapping[str, Any]
"""Part (`pose`, `wrench`, `joints`, `gripper`, or the name of a camera) -> message."""


_STATE_TYPES = {"pose": PoseStamped, "wrench": WrenchStamped, "joints": JointState, "gripper": JointState}


class FrameSink(Protocol):
    """What receives frames."""

    def take(self, frame: Frame) -> None:
        """Take a complete frame."""

    def refuse(self, fault: str, late_start: bool) -> None:
        """Take the reason why this tick has no frame. late_start: drivers may still be starting."""


class SensorFrames(Protocol):
    """Source of frames. late: number of ticks without a new image."""

    late: int

    def missing(self) -> list[str]:
        """Return the parts that the next frame waits for."""

    def silent(self) -> list[str]:
        """Return the optional inputs that do not arrive."""


def _message_type(part: str, one: Input) -> type[Any]:
    message_type: type[Any] = Image if one.is_camera else _STATE_TYPES[part]
    return message_type


def _subscribe(node: Node, pace: Pace, inputs: Mapping[str, Input], receive: Callable[[str, bytes], None]) -> None:
    """Subscribe without decoding: only the messages of a tick are decoded (state at 1 kHz, images at 30 Hz)."""
    for part, one in inputs.items():
        qos = pace.vendor_qos(VENDOR_QOS[one.qos])
        subscribe(node, _message_type(part, one), one.topic, partial(receive, part), qos, raw=True)


class StampedFrames:
    """Lock-step: a frame is complete when every needed part with its stamp has arrived."""

    late = 0

    def __init__(self, node: Node, pace: Pace, inputs: Mapping[str, Input], _period_s: float, sink: FrameSink) -> None:
        needed = {part: one for part, one in inputs.items() if one.needed}
        self._inputs, self._sink, self._joiner = needed, sink, FrameJoiner(tuple(needed))
        _subscribe(node, pace, needed, self._receive)

    def missing(self) -> list[str]:
        """Return the parts that the newest incomplete frame lacks."""
        return self._joiner.missing()

    def silent(self) -> list[str]:
        """Return nothing: optional inputs are not subscribed."""
        return []

    def _receive(self, part: str, data: bytes) -> None:
        message = decode(data, _message_type(part, self._inputs[part]))
        if frame := self._joiner.add(part, stamp_ns(message.header.stamp), message):
            self._sink.take(frame)


class NewestFrames:
    """Real time: takes the newest message of every part at each tick, or later when the next image arrives."""

    def __init__(self, node: Node, pace: Pace, inputs: Mapping[str, Input], period_s: float, sink: FrameSink) -> None:
        self.late = 0
        self._node, self._inputs, self._sink = node, inputs, sink
        self._newest = NewestInputs(inputs)
        self._first_camera = next(part for part, one in inputs.items() if one.is_camera)
        self._due, self._last_image = False, b""
        _subscribe(node, pace, inputs, self._receive)
        steady_timer(node, period_s, self._tick)

    def missing(self) -> list[str]:
        """Return the needed inputs that never arrived or are too old."""
        return self._newest.stale(monotonic())

    def silent(self) -> list[str]:
        """Return the optional inputs that never arrived or are too old."""
        return self._newest.stale(monotonic(), needed=False)

    def _receive(self, part: str, data: bytes) -> None:
        self._newest.add(part, data, monotonic())
        if self._due and self._inputs[part].is_camera:
            # The tick had no new image: use this one now instead of at the next tick.
            self._observe()

    def _tick(self) -> None:
        self.late += self._due
        self._due = True
        self._observe()

    def _observe(self) -> None:
        if stale := self.missing():
            self._sink.refuse("; ".join(stale), late_start=True)
            return
        fresh = self._newest.fresh(monotonic())
        if fresh[self._first_camera] is self._last_image:
            return
        self._due, self._last_image = False, fresh[self._first_camera]
        frame = {}
        for part, data in fresh.items():
            try:
                frame[part] = decode(data, _message_type(part, self._inputs[part]))
            except ValueError as error:
                self._newest.discard(part)
                refusals(self._node).add(self._inputs[part].topic, str(error))
                self._sink.refuse(refusals(self._node).newest, late_start=False)
                return
        try:
            self._check_stamps(frame)
        except UserError as error:
            self._sink.refuse(str(error), late_start=False)
            return
        self._sink.take(frame)

    def _check_stamps(self, frame: Frame) -> None:
        now_ns = self._node.get_clock().now().nanoseconds
        for part, message in frame.items():
            with errors_of_topic(self._inputs[part].topic):
                check_stamp(stamp_ns(message.header.stamp), now_ns, self._inputs[part].limit_s)


FRAMES: Mapping[str, Callable[[Node, Pace, Mapping[str, Input], float, FrameSink], SensorFrames]] = {
    "real_time": NewestFrames,
    "lock_step": StampedFrames,
}
"""Source of frames by the name of the pace."""
