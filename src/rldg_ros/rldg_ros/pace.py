"""Differences between real time and lock-step for nodes: QoS, age of messages, log times, and time-outs.

Real time: wall clock, the drivers' QoS, time-outs in seconds. Lock-step: the simulated clock advances when everything
due has arrived, so no message may be lost and no time-out applies (docs/explanation/architecture.md, 'Lock-step').
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Protocol

from rclpy.clock import Clock
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.timer import Timer

from rldg_core.from_msg import NS_PER_S
from rldg_ros.parameters import parameter
from rldg_ros.qos import STREAM
from rldg_ros.reporting import steady_timer


class Pace(Protocol):
    """One of `RealTime` and `LockStep`. `name` selects the rules of a package, e.g. `rldg_control.pace.RULES`."""

    name: str

    def vendor_qos(self, profile: QoSProfile) -> QoSProfile:
        """Return the QoS for a topic that a driver publishes or subscribes with `profile`."""

    def age_s(self, clock: Clock, stamp_ns: int) -> float:
        """Return the age of a message by its stamp [s]; inf when the clock does not run."""

    def sent_ns(self, clock: Clock, observation_stamp_ns: int) -> int:
        """Return the stamp for a message that is sent now in answer to the observation."""

    def arrival_ns(self, clock: Clock) -> int | None:
        """Return the log time of a message that arrives now; None: use the stamp that it carries."""

    def clock_runs(self, clock: Clock) -> bool:
        """Return whether stamps can be compared with the clock."""

    def watch(self, node: Node, period_s: float, callback: Callable[[], None]) -> list[Timer]:
        """Call `callback` periodically if time-outs apply; return the timers."""


class RealTime:
    """Pace of the wall clock."""

    name = "real_time"

    def vendor_qos(self, profile: QoSProfile) -> QoSProfile:
        """Return the driver's QoS."""
        return profile

    def age_s(self, clock: Clock, stamp_ns: int) -> float:
        """Return the age by the node's clock [s]."""
        now_ns = int(clock.now().nanoseconds)
        return (now_ns - stamp_ns) / NS_PER_S if now_ns else inf

    def sent_ns(self, clock: Clock, observation_stamp_ns: int) -> int:
        """Return the current time."""
        return int(clock.now().nanoseconds)

    def arrival_ns(self, clock: Clock) -> int | None:
        """Return the current time; None when the clock does not run."""
        return int(clock.now().nanoseconds) or None

    def clock_runs(self, clock: Clock) -> bool:
        """Return whether the clock is not zero; with use_sim_time it is until /clock is published."""
        return bool(clock.now().nanoseconds)

    def watch(self, node: Node, period_s: float, callback: Callable[[], None]) -> list[Timer]:
        """Return one steady timer."""
        return [steady_timer(node, period_s, callback)]


class LockStep:
    """Pace of the simulated clock, which does not advance while a node computes."""

    name = "lock_step"

    def vendor_qos(self, profile: QoSProfile) -> QoSProfile:
        """Return reliable, transient-local QoS: one lost message would stop the clock."""
        return STREAM

    def age_s(self, clock: Clock, stamp_ns: int) -> float:
        """Return zero: a message is answered however late it arrives."""
        return 0.0

    def sent_ns(self, clock: Clock, observation_stamp_ns: int) -> int:
        """Return the observation's stamp, regardless of /clock."""
        return observation_stamp_ns

    def arrival_ns(self, clock: Clock) -> int | None:
        """Return None: bags of a run repeat, whenever its messages arrive."""
        return None

    def clock_runs(self, clock: Clock) -> bool:
        """Return True: the clock starts with the first frame."""
        return True

    def watch(self, node: Node, period_s: float, callback: Callable[[], None]) -> list[Timer]:
        """Return no timer: no time-out applies."""
        return []


def pace_parameter(node: Node) -> Pace:
    """Declare the parameter `lockstep` and return the pace that it selects."""
    description = "Lock-step simulation: advance only when the last observation was answered."
    return LockStep() if parameter(node, "lockstep", False, description) else RealTime()
