from __future__ import annotations

import numpy as np
import pytest

from rldg_control.gripper_logic import GripperConfig, GripperLogic
from rldg_control.teleop_logic import HELD_S, PRESSED_S, TeleopLogic, TeleopMap
from rldg_core.errors import UserError
from rldg_core.types import Source


def test_axes_are_mapped_scaled_and_clipped() -> None:
    teleop = TeleopLogic(TeleopMap(axis_map=(1, 0, 2, 3, 4, 5), axis_scale=(1, -2, 1, 1, 1, 1)))
    teleop.on_twist([0.1, 0.2, 0.3, 0, 0, -9.0], 0.0)
    action, active = teleop.action(0.0)
    assert active
    np.testing.assert_allclose(action, [0.2, -0.2, 0.3, 0, 0, -1.0], atol=1e-7)


def test_dead_band_is_hil_serls_and_the_first_motion_is_published_at_once() -> None:
    teleop = TeleopLogic(TeleopMap())
    assert not teleop.on_twist([0.9e-3, 0, 0, 0, 0, 0], 0.0) and not teleop.action(0.0)[1]
    assert teleop.on_twist([1.1e-3, 0, 0, 0, 0, 0], 0.01)
    assert not teleop.on_twist([0.5, 0, 0, 0, 0, 0], 0.02), "already active"


def test_a_dead_driver_does_not_keep_moving() -> None:
    teleop = TeleopLogic(TeleopMap())
    assert teleop.silent_s(5.0) == np.inf
    teleop.on_twist([1, 0, 0, 0, 0, 0], 5.0)
    action, active = teleop.action(5.0 + HELD_S + 0.01)
    assert not active and not action.any() and teleop.silent_s(7.0) == 2.0


def test_nan_from_the_driver_is_no_input() -> None:
    teleop = TeleopLogic(TeleopMap())
    teleop.on_twist([np.nan, 1, 0, 0, 0, 0], 0.0)
    assert not teleop.action(0.0)[1] and np.all(np.isfinite(teleop.action(0.0)[0]))


def test_buttons() -> None:
    teleop = TeleopLogic(TeleopMap(gripper=True, gripper_button=1, override_button=0))
    assert teleop.action(0.0)[0].tolist() == [0, 0, 0, 0, 0, 0, 0]
    teleop.on_buttons([0, 1], 0.0)
    assert teleop.action(0.0)[0][6] == -1 and teleop.action(0.0)[1]
    teleop.on_executed(grip(-1))
    teleop.on_buttons([0, 1], 1.0)
    assert teleop.action(1.0)[0][6] == -1, "held is pressed once"
    teleop.on_buttons([1, 0], 2.0)
    assert teleop.action(2.0)[1] and teleop.action(2.0)[0][6] == 0, "0 keeps"
    teleop.on_buttons([], 2.0)
    assert not teleop.action(2.0)[1]
    teleop.on_buttons([0, 1], 3.0)
    teleop.on_buttons([0, 0], 3.01)
    assert teleop.action(3.1)[0][6] == 1 and teleop.action(3.1)[1], "a short touch counts, and opens what was closed"
    assert teleop.action(3.0 + PRESSED_S + 0.01)[0][6] == 0


def test_the_button_closes_what_the_policy_opened() -> None:
    teleop = TeleopLogic(TeleopMap(gripper=True, gripper_button=1))
    for executed, asked in ((grip(-1), 1), (grip(0.2), 1), (grip(1), -1)):
        teleop.on_executed(executed)
        teleop.on_buttons([0, 1], 0.0)
        assert teleop.action(0.0)[0][6] == asked
        teleop.on_buttons([0, 0], 0.0)


@pytest.mark.parametrize("bad", [{"axis_map": (0, 1, 2, 3, 4, 6)}, {"axis_map": (0,)}, {"axis_scale": (1.0,) * 5}])
def test_bad_maps_are_refused(bad: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        TeleopMap(**bad)  # type: ignore[arg-type]


def grip(value: float) -> list[float]:
    return [0.0] * 6 + [value]


def test_gripper_debounces_and_sends_changes_only() -> None:
    gripper = GripperLogic(GripperConfig(ticks=2))
    sent = [gripper.on_executed(grip(v), Source.POLICY) for v in (1, 1, 1, -1, 1, -1, -0.2, -1, -1, -1, 0.4, 1, 1)]
    assert sent == [None, 0.08, None, None, None, None, None, None, 0.0, None, None, None, 0.08]


def test_gripper_ignores_holds_and_short_actions() -> None:
    gripper = GripperLogic(GripperConfig(ticks=1))
    assert gripper.on_executed(grip(1), Source.HOLD) is None
    assert gripper.on_executed([0.0] * 6, Source.POLICY) is None
    assert gripper.on_executed(grip(float("nan")), Source.POLICY) is None
