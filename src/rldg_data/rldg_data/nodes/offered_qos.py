"""QoS of the publishers of a raw topic: as stored in a bag, and as required for a subscription."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from rldg_data.bags.metadata import INFINITE_NS, Qos

RAW_DEPTH = 100
"""Messages that wait while a chunk is compressed and written."""


def recorded_qos(profiles: Sequence[QoSProfile]) -> tuple[Qos, ...]:
    """The different profiles of a topic's publishers, by rosbag2's names, in their order."""
    return tuple(dict.fromkeys(map(_recorded, profiles)))


def _recorded(profile: QoSProfile) -> Qos:
    """Discovery reports neither history nor depth (DDS does not send them), so rosbag2's defaults are used.

    A depth of 0 would make `ros2 bag play` publish with an empty queue.
    """
    plain = Qos()
    known = profile.depth > 0 and profile.history in (HistoryPolicy.KEEP_LAST, HistoryPolicy.KEEP_ALL)
    return Qos(
        reliability=_name(profile.reliability, plain.reliability),
        durability=_name(profile.durability, plain.durability),
        history=profile.history.name.lower() if known else plain.history,
        depth=profile.depth if known else plain.depth,
        deadline_ns=_finite(profile.deadline),
        lifespan_ns=_finite(profile.lifespan),
        liveliness=_name(profile.liveliness, plain.liveliness),
        liveliness_lease_ns=_finite(profile.liveliness_lease_duration),
    )


def _name(policy: Any, unknown: str) -> str:
    return unknown if policy.name in ("UNKNOWN", "SYSTEM_DEFAULT", "BEST_AVAILABLE") else str(policy.name.lower())


def _finite(duration: Duration) -> int:
    """0 means unspecified, which is infinite."""
    return int(duration.nanoseconds) or INFINITE_NS


def matching_qos(profiles: Sequence[QoSProfile]) -> QoSProfile:
    """The strongest QoS that every publisher satisfies."""
    reliable = all(p.reliability == ReliabilityPolicy.RELIABLE for p in profiles)
    latched = all(p.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in profiles)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=RAW_DEPTH,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
