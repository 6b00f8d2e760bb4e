"""Figures of the tick loop: latency percentiles and rate over a window of ticks."""

from __future__ import annotations

from collections import deque

import numpy as np

WINDOW = 1000
"""Ticks in the latency percentiles (PolicyStatus.msg)."""


class TickWindow:
    """Latencies of the last WINDOW ticks [s] and the times at which they ended [s, monotonic]."""

    def __init__(self) -> None:
        self._latency_s: deque[float] = deque(maxlen=WINDOW)
        self._end_s: deque[float] = deque(maxlen=100)

    def add(self, received_s: float, published_s: float) -> None:
        """Note one answered tick: when its observation was received and when its action was published."""
        self._latency_s.append(published_s - received_s)
        self._end_s.append(published_s)

    def percentile_s(self, percent: float) -> float:
        """Latency that `percent` of the ticks stay under [s]; NaN before the first."""
        return float(np.percentile(self._latency_s, percent)) if self._latency_s else float("nan")

    def rate_hz(self) -> float:
        """One over the median interval of the last 100 ticks: pauses between episodes do not count. 0 at first."""
        intervals = np.diff(np.array(self._end_s))
        return float(1.0 / max(float(np.median(intervals)), 1e-9)) if len(intervals) else 0.0
