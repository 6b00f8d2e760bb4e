"""The 7th action component -> width to command, debounced. Without ROS.

In lock-step every executed action gets its width, since the cell waits for both messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from rldg_core.types import GRIPPER_THRESHOLD, Source


@dataclass(frozen=True)
class GripperConfig:
    """Widths in m, times in s.

    debounce_s: time for which a request must be repeated before it is commanded; 0: command it immediately. forget_s: a
    request that is not repeated within this time is dropped, as it is by the opposite request; actions between the
    thresholds do not drop it.
    """

    debounce_s: float = 0.0
    forget_s: float = 1.0
    open_width_m: float = 0.08
    closed_width_m: float = 0.0


class GripperLogic:
    """Executed actions -> width to command, only when it changes."""

    def __init__(self, config: GripperConfig) -> None:
        self._config = config
        self.restart()

    @property
    def commanded_m(self) -> float:
        """Width that was commanded last [m]; open before the first command."""
        return self._config.closed_width_m if self._commanded is False else self._config.open_width_m

    def restart(self) -> None:
        """Forget the commanded width, so that the first request of a new episode is always sent."""
        self._commanded: bool | None = None
        self._requested: bool | None = None
        self._since_s = self._requested_s = -float("inf")

    def on_executed(self, action: list[float], source: Source, now_s: float) -> float | None:
        """Return the width [m] to command now, or None. HOLD and actions without a gripper never move it."""
        if len(action) < 7 or source in (Source.HOLD, Source.NONE) or not abs(action[6]) > GRIPPER_THRESHOLD:
            return None
        opens = action[6] > 0
        if opens is not self._requested or now_s - self._requested_s > self._config.forget_s:
            self._requested, self._since_s = opens, now_s
        self._requested_s = now_s
        if opens is self._commanded or now_s - self._since_s < self._config.debounce_s:
            return None
        self._commanded = opens
        return self.commanded_m


class LockStepGripper:
    """Executed actions -> one width for each stamp of an observation.

    A reset of the cell opens the hand and shows as a gap of two periods between stamps, as for the observer: an
    event would race with the first action.
    """

    def __init__(self, config: GripperConfig, period_ns: int) -> None:
        self._logic = GripperLogic(config)
        self._gap_ns = 3 * period_ns // 2
        self._answered_ns: int | None = None

    def on_executed(self, observation_stamp_ns: int, action: list[float], source: Source) -> float | None:
        """Return the width [m] that belongs to this action; None if the stamp was answered before."""
        last_ns, stamp_ns = self._answered_ns, observation_stamp_ns
        if last_ns is not None and stamp_ns <= last_ns:
            return None
        if last_ns is not None and stamp_ns - last_ns > self._gap_ns:
            self._logic.restart()
        self._answered_ns = stamp_ns
        self._logic.on_executed(action, source, stamp_ns * 1e-9)
        return self._logic.commanded_m
