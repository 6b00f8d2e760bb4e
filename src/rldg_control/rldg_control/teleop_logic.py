"""SpaceMouse to normalised body-frame action. Free of ROS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rldg_control.gripper_logic import THRESHOLD as GRIPPER_THRESHOLD
from rldg_core.errors import UserError
from rldg_core.types import Float32

DEAD_BAND = 1e-3
"""Norm of the mapped input over which a person acts (HIL-SERL's SpaceMouse intervention)."""

HELD_S = 0.5
"""A twist older than this counts as zero: a driver that died in mid-motion must not keep the arm moving."""

PRESSED_S = 0.3
"""A touch of the gripper button counts for so long: three ticks, of which a debounced gripper needs two."""


@dataclass(frozen=True)
class TeleopMap:
    """How six input axes become six action components: action[i] = axis_scale[i] * twist[axis_map[i]].

    axis_map: indices 0..5 into [vx vy vz wx wy wz]; axis_scale: factor with sign. -1 as a button: none.
    """

    axis_map: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    axis_scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    gripper: bool = False
    gripper_button: int = 1
    override_button: int = -1

    def __post_init__(self) -> None:
        if len(self.axis_map) != 6 or not all(0 <= i <= 5 for i in self.axis_map):
            raise UserError(f"parameter axis_map: expected six indices from 0 to 5, got {list(self.axis_map)}")
        if len(self.axis_scale) != 6 or not np.all(np.isfinite(self.axis_scale)):
            raise UserError(f"parameter axis_scale: expected six finite numbers, got {list(self.axis_scale)}")


class TeleopLogic:
    """Newest twist and buttons -> TeleopAction.

    The gripper button asks for the opposite of what was executed last, by whomever: 1 opens, -1 closes. Not pressed
    means 0, keep, so that a person who only corrects the motion does not open a hand that the policy closed.
    """

    def __init__(self, mapping: TeleopMap) -> None:
        self._map = mapping
        self._twist: NDArray[np.float64] = np.zeros(6)
        self._twist_s = -np.inf
        self._buttons: tuple[int, ...] = ()
        self._open = True
        self._asks_open = True
        self._asks_until_s = -np.inf

    def on_twist(self, twist: ArrayLike, now_s: float) -> bool:
        """Take a twist (6,); return whether it starts an intervention, which is published at once."""
        was_active = self.action(now_s)[1]
        values = np.asarray(twist, dtype=np.float64)
        # A NaN from the driver is no input.
        self._twist = values if np.all(np.isfinite(values)) else np.zeros(6)
        self._twist_s = now_s
        return not was_active and self.action(now_s)[1]

    def on_buttons(self, buttons: Sequence[int], now_s: float) -> None:
        """Take the state of the buttons."""
        button = self._map.gripper_button
        if self._pressed(button, buttons):
            if not self._pressed(button, self._buttons):
                self._asks_open = not self._open
            self._asks_until_s = now_s + PRESSED_S
        self._buttons = tuple(buttons)

    def on_executed(self, action: Sequence[float]) -> None:
        """Take an executed action, whose 7th component tells what the gripper was told."""
        if len(action) > 6 and abs(action[6]) > GRIPPER_THRESHOLD:
            self._open = action[6] > 0

    def action(self, now_s: float) -> tuple[Float32, bool]:
        """Return the action (6,) or (7,) in [-1, 1] and whether it is active (over the dead-band, or button held)."""
        twist = self._twist if now_s - self._twist_s <= HELD_S else np.zeros(6)
        values = np.clip(twist[list(self._map.axis_map)] * np.array(self._map.axis_scale), -1.0, 1.0)
        active = float(np.linalg.norm(values)) > DEAD_BAND or self._pressed(self._map.override_button, self._buttons)
        if self._map.gripper:
            asks = now_s < self._asks_until_s or self._pressed(self._map.gripper_button, self._buttons)
            active = active or asks
            values = np.append(values, (1.0 if self._asks_open else -1.0) if asks else 0.0)
        return values.astype(np.float32), active

    def silent_s(self, now_s: float) -> float:
        """Time since the last message; inf before the first. An unplugged mouse looks like a still one otherwise."""
        return float(now_s - self._twist_s)

    @staticmethod
    def _pressed(button: int, buttons: Sequence[int]) -> bool:
        return 0 <= button < len(buttons) and bool(buttons[button])
