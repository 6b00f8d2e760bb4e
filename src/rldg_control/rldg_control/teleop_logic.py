"""SpaceMouse to normalised body-frame action. Free of ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.errors import UserError
from rldg_core.types import GRIPPER_THRESHOLD, Float32, Float64

ACTIVE_NORM = 1e-3
"""Norm of the mapped input over which a person acts (HIL-SERL's SpaceMouse intervention)."""

HELD_S = 0.5
"""A twist, or a state of the buttons, older than this counts as zero: its driver has ended."""

PRESSED_TICKS = 3
"""A touch of the gripper button counts for so many control periods; a debounced gripper needs two."""

RESTING_S = 3.0
RESTING_SPREAD = 0.005
RESTING_OFFSET = 0.1
"""Axes that stay within a band of RESTING_SPREAD for RESTING_S, none further than RESTING_OFFSET from zero, are those
of a mouse that nobody touches. One count of a SpaceMouse is 0.002; no hand is as steady as that."""


@dataclass(frozen=True)
class TeleopMap:
    """How six input axes become six action components: action[i] = axis_scale[i] * twist[axis_map[i]].

    axis_map: indices 0..5 into [vx vy vz wx wy wz]; axis_scale: factor with sign. -1 as a button: none.
    dead_band: an axis [-1, 1] that is not further than this from its resting value counts as zero. A SpaceMouse that
    rests at 0.3 % would otherwise be a person at the controls for ever: HIL-SERL's threshold has no other protection.
    """

    axis_map: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    axis_scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    dead_band: float = 0.02
    gripper: bool = False
    gripper_button: int = 1
    override_button: int = -1

    def __post_init__(self) -> None:
        if len(self.axis_map) != 6 or not all(0 <= i <= 5 for i in self.axis_map):
            raise UserError(f"parameter axis_map: expected six indices from 0 to 5, got {list(self.axis_map)}")
        if len(self.axis_scale) != 6 or not np.all(np.isfinite(self.axis_scale)):
            raise UserError(f"parameter axis_scale: expected six finite numbers, got {list(self.axis_scale)}")
        if not 0.0 <= self.dead_band < 1.0:
            raise UserError(f"parameter dead_band: expected a number from 0 to below 1, got {self.dead_band}")


class RestingOffset:
    """What each axis shows while nobody touches the mouse; zero until it was at rest once."""

    def __init__(self) -> None:
        self.offset: Float64 = np.zeros(6)
        self._low = self._high = np.full(6, np.nan)
        self._since_s = self._heard_s = -np.inf

    def add(self, values: Float64, now_s: float) -> None:
        """Take the axes (6,) as the driver sent them; it repeats them while nothing changes."""
        low, high = np.fmin(self._low, values), np.fmax(self._high, values)
        if now_s - self._heard_s > HELD_S or np.any(high - low > RESTING_SPREAD):
            low = high = values
            self._since_s = now_s
        self._low, self._high, self._heard_s = low, high, now_s
        middle = (low + high) / 2
        if now_s - self._since_s >= RESTING_S and np.all(np.abs(middle) <= RESTING_OFFSET):
            self.offset = middle


class TeleopLogic:
    """Newest twist and buttons -> TeleopAction.

    The gripper button asks for the opposite of what was executed last, by whomever: 1 opens, -1 closes. Not pressed
    means 0, keep, so that a person who only corrects the motion does not open a hand that the policy closed.
    """

    def __init__(self, mapping: TeleopMap, period_s: float = 0.1) -> None:
        self._map = mapping
        self._pressed_s = PRESSED_TICKS * period_s
        self._resting = RestingOffset()
        self._twist: NDArray[np.float64] = np.zeros(6)
        self._twist_s = -np.inf
        self._buttons: tuple[int, ...] = ()
        self._buttons_s = -np.inf
        self._open = True
        self._asks_open = True
        self._asks_until_s = -np.inf

    @property
    def offset(self) -> Float64:
        """The resting value of each axis (6,), as measured."""
        return self._resting.offset

    def on_twist(self, twist: ArrayLike, now_s: float) -> bool:
        """Take a twist (6,); return whether it starts an intervention, which is published at once."""
        was_active = self.action(now_s)[1]
        values = np.asarray(twist, dtype=np.float64)
        # A NaN from the driver is no input.
        self._twist = values if np.all(np.isfinite(values)) else self._resting.offset
        self._twist_s = now_s
        self._resting.add(self._twist, now_s)
        return not was_active and self.action(now_s)[1]

    def on_same_twist(self, now_s: float) -> None:
        """Take a twist that equals the one before."""
        self._twist_s = now_s
        self._resting.add(self._twist, now_s)

    def on_buttons(self, buttons: Sequence[int], now_s: float) -> None:
        """Take the state of the buttons."""
        button = self._map.gripper_button
        # By the state before, however old: a gap while the button is held is no second touch.
        if _pressed(button, buttons) and not _pressed(button, self._buttons):
            self._asks_open = not self._open
            self._asks_until_s = now_s + self._pressed_s
        self._buttons, self._buttons_s = tuple(buttons), now_s

    def on_same_buttons(self, now_s: float) -> None:
        """Take a state of the buttons that equals the one before."""
        self._buttons_s = now_s

    def on_executed(self, action: Sequence[float]) -> None:
        """Take an executed action, whose 7th component tells what the gripper was told."""
        if len(action) > 6 and abs(action[6]) > GRIPPER_THRESHOLD:
            self._open = action[6] > 0

    def action(self, now_s: float) -> tuple[Float32, bool]:
        """Return the action (6,) or (7,) in [-1, 1] and whether it is active (an axis is moved, or a button held)."""
        twist = self._twist - self._resting.offset
        if now_s - self._twist_s > HELD_S:
            twist = np.zeros(6)
        twist = np.where(np.abs(twist) > self._map.dead_band, twist, 0.0)
        values = np.clip(twist[list(self._map.axis_map)] * np.array(self._map.axis_scale), -1.0, 1.0)
        buttons = self._buttons if now_s - self._buttons_s <= HELD_S else ()
        active = float(np.linalg.norm(values)) > ACTIVE_NORM or _pressed(self._map.override_button, buttons)
        if self._map.gripper:
            asks = now_s < self._asks_until_s or _pressed(self._map.gripper_button, buttons)
            active = active or asks
            values = np.append(values, (1.0 if self._asks_open else -1.0) if asks else 0.0)
        return values.astype(np.float32), active

    def silent_s(self, now_s: float) -> float:
        """Time since the last twist; inf before the first. An unplugged mouse looks like a still one otherwise."""
        return float(now_s - self._twist_s)


def _pressed(button: int, buttons: Sequence[int]) -> bool:
    return 0 <= button < len(buttons) and bool(buttons[button])
