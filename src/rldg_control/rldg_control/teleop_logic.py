"""SpaceMouse input to a normalised action in tcp axes. Without ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_core.errors import UserError
from rldg_core.types import GRIPPER_THRESHOLD, Float32, Float64

ACTIVE_NORM = 1e-3
"""Norm of the mapped input above which it is active (HIL-SERL's SpaceMouse intervention)."""

HELD_S = 0.5
"""Maximum age of a twist or button state; older ones count as zero, since the driver has ended."""

PRESSED_TICKS = 3
"""Number of control periods for which a press of the gripper button counts; a debounced gripper needs two."""

RESTING_S = 3.0
RESTING_SPREAD = 0.005
RESTING_OFFSET = 0.1
"""A SpaceMouse is at rest if all axes stay within a band of RESTING_SPREAD for RESTING_S and within RESTING_OFFSET of
zero. One count of a SpaceMouse is 0.002; a hand moves it by more."""


@dataclass(frozen=True)
class TeleopMap:
    """How six input axes become six action components: action[i] = axis_scale[i] * twist[axis_map[i]].

    axis_map: indices 0..5 into [vx vy vz wx wy wz]; axis_scale: factor with sign. -1 as a button: none.
    dead_band: an axis [-1, 1] within this distance of its resting value counts as zero. Without it, a SpaceMouse that
    rests at 0.3 % would override the policy permanently (HIL-SERL has only the threshold ACTIVE_NORM).
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
    """Value of each axis while the SpaceMouse is at rest; zero until it was at rest once."""

    def __init__(self) -> None:
        self.offset: Float64 = np.zeros(6)
        self._low = self._high = np.full(6, np.nan)
        self._since_s = self._heard_s = -np.inf

    def add(self, values: Float64, now_s: float) -> None:
        """Take the axes (6,) of one driver message; the driver repeats unchanged values."""
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

    The gripper button requests the opposite of the gripper command that was executed last by any source: 1 opens, -1
    closes. Without a press the value is 0, which keeps the gripper as it is, so that correcting the motion does not
    open a gripper that the policy closed.
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
        self._requests_open = True
        self._request_until_s = -np.inf

    @property
    def offset(self) -> Float64:
        """Measured resting value of each axis (6,)."""
        return self._resting.offset

    def on_twist(self, twist: ArrayLike, now_s: float) -> bool:
        """Take a twist (6,); return whether it starts an intervention, which should be published immediately."""
        was_active = self.action(now_s)[1]
        values = np.asarray(twist, dtype=np.float64)
        # NaN from the driver counts as no input.
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
        # Compared with the previous state whatever its age: a gap while the button is held is not a second press.
        if _pressed(button, buttons) and not _pressed(button, self._buttons):
            self._requests_open = not self._open
            self._request_until_s = now_s + self._pressed_s
        self._buttons, self._buttons_s = tuple(buttons), now_s

    def on_same_buttons(self, now_s: float) -> None:
        """Take a state of the buttons that equals the one before."""
        self._buttons_s = now_s

    def on_executed(self, action: Sequence[float]) -> None:
        """Take an executed action; its 7th component is the gripper command."""
        if len(action) > 6 and abs(action[6]) > GRIPPER_THRESHOLD:
            self._open = action[6] > 0

    def action(self, now_s: float) -> tuple[Float32, bool]:
        """Return the action (6,) or (7,) in [-1, 1] and whether it is active (an axis is moved or a button is held)."""
        twist = self._twist - self._resting.offset
        if now_s - self._twist_s > HELD_S:
            twist = np.zeros(6)
        twist = np.where(np.abs(twist) > self._map.dead_band, twist, 0.0)
        values = np.clip(twist[list(self._map.axis_map)] * np.array(self._map.axis_scale), -1.0, 1.0)
        buttons = self._buttons if now_s - self._buttons_s <= HELD_S else ()
        active = float(np.linalg.norm(values)) > ACTIVE_NORM or _pressed(self._map.override_button, buttons)
        if self._map.gripper:
            requested = now_s < self._request_until_s or _pressed(self._map.gripper_button, buttons)
            active = active or requested
            values = np.append(values, (1.0 if self._requests_open else -1.0) if requested else 0.0)
        return values.astype(np.float32), active

    def silent_s(self, now_s: float) -> float:
        """Return the time since the last twist [s], inf before the first; an unplugged SpaceMouse sends nothing."""
        return float(now_s - self._twist_s)


def _pressed(button: int, buttons: Sequence[int]) -> bool:
    return 0 <= button < len(buttons) and bool(buttons[button])
