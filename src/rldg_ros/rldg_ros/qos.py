"""QoS profiles of our topics and of the vendors' (docs/explanation/architecture.md, docs/how-to/hardware.md)."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _profile(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


STREAM = _profile(10, latched=True)
"""Our topics at the control rate: nothing may be lost between two local processes.

Latched, since in lock-step one lost message stops the clock: a subscriber that is discovered late - at the start,
or again after a process stood still for longer than the DDS lease of 20 s - gets what it missed. Receivers
therefore ignore what they have had (docs/explanation/architecture.md, Lock-step 9)."""

STEPS = _profile(1000)
"""`step` for learner and recorder: who computes for a while must not lose transitions."""

STEPS_OUT = _profile(1000, latched=True)
"""`step` as the episode manager offers it.

Fast DDS keeps a buffer per sample of the history, which grows to the largest message it ever held: the process
fills up to 1,000 Steps in the first 100 s and then creeps up, ever slower, with the largest JPEG seen (measured:
0.48, 0.38, 0.22, 0.12, 0.10, 0.08 MB per 10,000 Steps of 5 kB; flat with a depth of 10). It is bounded, not a leak."""

LAST_STEPS = _profile(10, latched=True)
"""`step` for gate and policy, which in lock-step wait for the newest one; latched as STREAM is."""

LATCHED = _profile(1, latched=True)
"""Status: the newest value, also for late subscribers."""

EVENTS = _profile(10, latched=True)
"""`episode_event`, `policy_weights`: the last few, also for late subscribers."""

VENDOR_STATE = _profile(1, reliable=False)
"""Drivers of arms publish best_effort, depth 1; a reliable subscriber would receive nothing."""

VENDOR_IMAGE = _profile(1)
"""realsense2_camera publishes SYSTEM_DEFAULT (reliable); best_effort loses large images (docs/how-to/hardware.md)."""

VENDOR_QOS = {"best_effort": VENDOR_STATE, "reliable": VENDOR_IMAGE}
"""What a driver offers, as a robot profile says it -> how to subscribe."""

TARGET = _profile(1)
"""crisp_controllers subscribes `target_pose` with QoS(1), reliable."""
