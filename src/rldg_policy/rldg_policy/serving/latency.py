"""Latency statistics of the policy node: percentiles and rates over a window."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from rldg_core.policy import PolicySpec
from rldg_core.policy_checks import ticks_per_inference

WINDOW = 1000
"""Ticks, or inferences, in the percentiles (PolicyStatus.msg)."""

MIN_INFERENCES = 10
"""Number of inferences needed to judge the speed of a policy."""


class Durations:
    """The last WINDOW durations [s]."""

    def __init__(self) -> None:
        self._durations_s: deque[float] = deque(maxlen=WINDOW)

    def __len__(self) -> int:
        return len(self._durations_s)

    def add(self, duration_s: float) -> None:
        """Add a duration."""
        self._durations_s.append(duration_s)

    def percentile_s(self, percent: float) -> float:
        """Return a percentile of the durations [s]; NaN if there are none."""
        return float(np.percentile(self._durations_s, percent)) if self._durations_s else float("nan")


class TickWindow(Durations):
    """Latencies of the last WINDOW ticks [s], and the end times of the last 100 [s, monotonic]."""

    def __init__(self) -> None:
        super().__init__()
        self._end_s: deque[float] = deque(maxlen=100)

    def note(self, received_s: float, published_s: float) -> None:
        """Add an answered tick: when its observation was received and when its action was published."""
        self.add(published_s - received_s)
        self._end_s.append(published_s)

    def rate_hz(self) -> float:
        """Return the inverse of the median tick interval, so that pauses between episodes do not count; 0 at first."""
        intervals = np.diff(np.array(self._end_s))
        return float(1.0 / max(float(np.median(intervals)), 1e-9)) if len(intervals) else 0.0


def lead_ticks(inference_s: float, answer_within_s: float, period_s: float) -> int:
    """Return how many ticks before its first action an inference must start; 0 while its duration is unknown (NaN)."""
    return max(0, math.ceil((inference_s - answer_within_s) / period_s)) if math.isfinite(inference_s) else 0


def slowness(spec: PolicySpec, control_hz: float, inferences: Durations) -> str:
    """Return why a policy is too slow, "" if it is not: an inference takes longer than its period, or longer than the
    remaining actions of the previous chunk plus one tick, which may wait for a period."""
    if len(inferences) < MIN_INFERENCES:
        return ""
    p99_s = inferences.percentile_s(99)
    bridged_s = (spec.horizon + 1 - ticks_per_inference(spec, control_hz)) / control_hz
    if p99_s > 1 / spec.rate_hz:
        return f"inference takes {p99_s:.3f} s (p99), its rate of {spec.rate_hz:g} Hz allows {1 / spec.rate_hz:.3f} s"
    if p99_s > bridged_s:
        chunk = f"chunks of {spec.horizon} actions at {control_hz:g} Hz"
        return f"inference takes {p99_s:.3f} s (p99), {chunk} bridge {bridged_s:.3f} s"
    return ""
