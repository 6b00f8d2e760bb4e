"""The 7th action component -> width to command, debounced: franka_gripper takes about one second per motion.

Free of ROS. In lock-step every executed action gets its width, since the cell waits for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from rldg_core.types import Source

THRESHOLD = 0.5
"""Hysteresis: over +0.5 asks to open, under -0.5 to close, between keeps what is."""


@dataclass(frozen=True)
class GripperConfig:
    """ticks: how many equal requests in a row it takes; widths in m (Franka Hand: 0 to 0.08)."""

    ticks: int = 1
    open_width_m: float = 0.08
    closed_width_m: float = 0.0


class GripperLogic:
    """Executed actions -> width to command, only when it changes."""

    def __init__(self, config: GripperConfig) -> None:
        self._config = config
        self._commanded: bool | None = None
        self._asked: bool | None = None
        self._count = 0

    @property
    def commanded_m(self) -> float:
        """The width that was commanded last; a hand that got no command is open."""
        return self._config.closed_width_m if self._commanded is False else self._config.open_width_m

    def restart(self) -> None:
        """A new episode: nothing was commanded yet, so that the first request is sent whatever it is."""
        self._commanded, self._asked, self._count = None, None, 0

    def on_executed(self, action: list[float], source: Source) -> float | None:
        """Return the width [m] to command now, or None. HOLD and actions without a gripper never move it."""
        if len(action) < 7 or source in (Source.HOLD, Source.NONE) or not abs(action[6]) > THRESHOLD:
            self._asked, self._count = None, 0
            return None
        opens = action[6] > 0
        self._count = self._count + 1 if opens is self._asked else 1
        self._asked = opens
        if self._count < self._config.ticks or opens is self._commanded:
            return None
        self._commanded = opens
        return self._config.open_width_m if opens else self._config.closed_width_m


class LockstepGripper:
    """Executed actions of observations by stamp -> the width of each, once.

    A reset of the cell opens the hand and shows as a gap of two periods between stamps, as for the observer: an
    event would race with the first action.
    """

    def __init__(self, config: GripperConfig, period_ns: int) -> None:
        self._logic = GripperLogic(config)
        self._gap_ns = 3 * period_ns // 2
        self._answered_ns: int | None = None

    def on_executed(self, observation_stamp_ns: int, action: list[float], source: Source) -> float | None:
        """Return the width [m] that belongs to this action; None for one that was answered before."""
        last_ns, stamp_ns = self._answered_ns, observation_stamp_ns
        if last_ns is not None and stamp_ns <= last_ns:
            return None
        if last_ns is not None and stamp_ns - last_ns > self._gap_ns:
            self._logic.restart()
        self._answered_ns = stamp_ns
        self._logic.on_executed(action, source)
        return self._logic.commanded_m
