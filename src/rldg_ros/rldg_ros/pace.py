"""What a node does differently in real time and in lock-step: QoS, the age of messages, and time-outs.

Real time: wall clock, the drivers' QoS, time-outs in seconds. Lock-step: the simulated clock advances when everything
due has arrived, so nothing may be lost and no time-out acts (docs/explanation/architecture.md, 'Lock-step').
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
        """QoS of a topic that a driver publishes or subscribes with `profile`."""

    def age_s(self, clock: Clock, stamp_ns: int) -> float:
        """Age of a message by its stamp; inf when the clock does not run."""

    def sent_ns(self, clock: Clock, observation_stamp_ns: int) -> int:
        """Stamp of what is sent now as an answer to the observation."""

    def clock_runs(self, clock: Clock) -> bool:
        """Return whether stamps can be compared with the clock."""

    def watch(self, node: Node, period_s: float, callback: Callable[[], None]) -> list[Timer]:
        """Call `callback` periodically where time-outs act; return the timers."""


class RealTime:
    """Wall clock."""

    name = "real_time"

    def vendor_qos(self, profile: QoSProfile) -> QoSProfile:
        """The driver's own."""
        return profile

    def age_s(self, clock: Clock, stamp_ns: int) -> float:
        """Age by the node's clock."""
        now_ns = int(clock.now().nanoseconds)
        return (now_ns - stamp_ns) / NS_PER_S if now_ns else inf

    def sent_ns(self, clock: Clock, observation_stamp_ns: int) -> int:
        """The time now."""
        return int(clock.now().nanoseconds)

    def clock_runs(self, clock: Clock) -> bool:
        """With use_sim_time, the clock is zero until somebody publishes /clock."""
        return bool(clock.now().nanoseconds)

    def watch(self, node: Node, period_s: float, callback: Callable[[], None]) -> list[Timer]:
        """One steady timer."""
        return [steady_timer(node, period_s, callback)]


class LockStep:
    """Simulated clock that stands still while a node computes."""

    name = "lock_step"

    def vendor_qos(self, profile: QoSProfile) -> QoSProfile:
        """Reliable and latched: one lost message would stop the clock."""
        return STREAM

    def age_s(self, clock: Clock, stamp_ns: int) -> float:
        """Zero: a message is answered however late it arrives."""
        return 0.0

    def sent_ns(self, clock: Clock, observation_stamp_ns: int) -> int:
        """The observation's stamp, whatever /clock has brought since."""
        return observation_stamp_ns

    def clock_runs(self, clock: Clock) -> bool:
        """Always: it starts with the first frame."""
        return True

    def watch(self, node: Node, period_s: float, callback: Callable[[], None]) -> list[Timer]:
        """Nothing: no time-out acts."""
        return []


def pace_parameter(node: Node) -> Pace:
    """Declare the parameter `lockstep` and return the pace that it selects."""
    description = "Lock-step simulation: advance only when the last observation was answered."
    return LockStep() if parameter(node, "lockstep", False, description) else RealTime()
