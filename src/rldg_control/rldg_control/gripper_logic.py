"""Debouncing the 7th action component: franka_gripper takes about one second per motion. Free of ROS."""

from __future__ import annotations

from dataclasses import dataclass

from rldg_core.types import Source

THRESHOLD = 0.5
"""Hysteresis: over +0.5 asks to open, under -0.5 to close, between keeps what is."""


@dataclass(frozen=True)
class GripperConfig:
    """ticks: how many equal requests in a row it takes; widths in m (Franka Hand: 0 to 0.08)."""

    ticks: int = 2
    open_width_m: float = 0.08
    closed_width_m: float = 0.0


class GripperLogic:
    """Executed actions -> width to command, only when it changes."""

    def __init__(self, config: GripperConfig) -> None:
        self._config = config
        self._commanded: bool | None = None
        self._asked: bool | None = None
        self._count = 0

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
