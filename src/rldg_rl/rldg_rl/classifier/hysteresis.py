"""n consecutive frames over the threshold -> success. Depends on stamps alone, never on the order of arrival."""

from __future__ import annotations

GAP_PERIODS = 1.5
"""A longer step between two frames ends a run: a lost frame, or a reset (the simulated clock moves on by two)."""


class Hysteresis:
    """Feed every frame of an episode in order; `update` says whether the task has succeeded."""

    def __init__(self, consecutive_frames: int, period_ns: int) -> None:
        """consecutive_frames: 1 or more. Raises ValueError otherwise."""
        if consecutive_frames < 1:
            raise ValueError(f"consecutive_frames: expected 1 or more, got {consecutive_frames}")
        self._wanted, self._gap_ns = consecutive_frames, round(GAP_PERIODS * period_ns)
        self._run: list[int] = []

    def start(self, first_stamp_ns: int) -> None:
        """An episode starts with the frame of this stamp: earlier ones no longer count.

        May be called after frames of the new episode were fed (START and observation travel on two topics).
        """
        self._run = [stamp for stamp in self._run if stamp >= first_stamp_ns]

    def update(self, stamp_ns: int, over: bool) -> bool:
        """One frame. over: its probability exceeds the threshold and every other condition holds."""
        if self._run and not 0 < stamp_ns - self._run[-1] <= self._gap_ns:
            self._run = []
        self._run = [*self._run, stamp_ns][-self._wanted :] if over else []
        return len(self._run) == self._wanted
