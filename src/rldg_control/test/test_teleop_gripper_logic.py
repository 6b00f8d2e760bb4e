from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_control.gripper_logic import GripperConfig, GripperLogic
from rldg_control.teleop_logic import HELD_S, RESTING_S, TeleopLogic, TeleopMap
from rldg_core.errors import UserError
from rldg_core.types import Source


def test_axes_are_mapped_scaled_and_clipped() -> None:
    teleop = TeleopLogic(TeleopMap(axis_map=(1, 0, 2, 3, 4, 5), axis_scale=(1, -2, 1, 1, 1, 1)))
    teleop.on_twist([0.1, 0.2, 0.3, 0, 0, -9.0], 0.0)
    action, active = teleop.action(0.0)
    assert active
    np.testing.assert_allclose(action, [0.2, -0.2, 0.3, 0, 0, -1.0], atol=1e-7)


def rest(teleop: TeleopLogic, twist: list[float], seconds: float = RESTING_S + 0.1, start_s: float = 0.0) -> float:
    """Repeat a twist at the driver's 30 Hz; return the time at the end."""
    ticks = round(seconds * 30)
    for k in range(ticks):
        teleop.on_twist(twist, start_s + k / 30)
    return start_s + ticks / 30


def test_first_motion_above_the_dead_band_is_published_at_once() -> None:
    teleop = TeleopLogic(TeleopMap())
    assert not teleop.on_twist([0.019, 0, 0, 0, 0, 0], 0.0) and not teleop.action(0.0)[1]
    assert teleop.on_twist([0.021, 0, 0, 0, 0, 0], 0.01)
    assert not teleop.on_twist([0.5, 0, 0, 0, 0, 0], 0.02), "already active"
    assert teleop.action(0.02)[0][0] == 0.5, "values above the dead-band are unchanged, as in HIL-SERL"


def test_threshold_without_a_dead_band_is_that_of_hil_serl() -> None:
    teleop = TeleopLogic(TeleopMap(dead_band=0.0))
    assert not teleop.on_twist([0.9e-3, 0, 0, 0, 0, 0], 0.0)
    assert teleop.on_twist([1.1e-3, 0, 0, 0, 0, 0], 0.01)


@given(st.lists(st.floats(-0.02, 0.02), min_size=6, max_size=6))
def test_drift_at_rest_is_inactive(drift: list[float]) -> None:
    teleop = TeleopLogic(TeleopMap())
    teleop.on_twist(drift, 0.0)
    assert not teleop.action(0.0)[1]


@given(st.lists(st.floats(-0.09, 0.09), min_size=6, max_size=6))
@settings(max_examples=20, deadline=None)
def test_resting_offset_is_subtracted(offset: list[float]) -> None:
    teleop = TeleopLogic(TeleopMap())
    now_s = rest(teleop, offset)
    assert not teleop.action(now_s)[1]
    teleop.on_twist(np.add(offset, [0.5, 0, 0, 0, 0, 0]), now_s)
    np.testing.assert_allclose(teleop.action(now_s)[0], [0.5, 0, 0, 0, 0, 0], atol=1e-6)


def test_pushed_mouse_gives_no_resting_offset() -> None:
    teleop = TeleopLogic(TeleopMap())
    now_s = rest(teleop, [0.3, 0, 0, 0, 0, 0], 10.0)  # pushed to its limit
    assert teleop.action(now_s)[1] and not teleop.offset.any()
    for k in range(300):  # a slow motion varies more than a mouse at rest
        teleop.on_twist([0.05 + 0.006 * (k % 2), 0, 0, 0, 0, 0], now_s + k / 30)
    assert teleop.action(now_s + 10)[1] and not teleop.offset.any()


def test_pause_of_the_driver_gives_no_resting_offset() -> None:
    teleop = TeleopLogic(TeleopMap())
    teleop.on_twist([0.05, 0, 0, 0, 0, 0], 0.0)
    teleop.on_same_twist(10.0)
    assert not teleop.offset.any()
    for k in range(100):
        teleop.on_same_twist(10.0 + k / 30)
    assert teleop.offset[0] == 0.05


def test_stopped_driver_does_not_keep_moving() -> None:
    teleop = TeleopLogic(TeleopMap())
    assert teleop.silent_s(5.0) == np.inf
    teleop.on_twist([1, 0, 0, 0, 0, 0], 5.0)
    action, active = teleop.action(5.0 + HELD_S + 0.01)
    assert not active and not action.any() and teleop.silent_s(7.0) == 2.0


def test_nan_from_the_driver_is_ignored() -> None:
    teleop = TeleopLogic(TeleopMap())
    teleop.on_twist([np.nan, 1, 0, 0, 0, 0], 0.0)
    assert not teleop.action(0.0)[1] and np.all(np.isfinite(teleop.action(0.0)[0]))


def test_buttons_request_start_failure_and_gripper() -> None:
    teleop = TeleopLogic(TeleopMap(gripper=True, gripper_button=1, override_button=0))
    assert teleop.action(0.0)[0].tolist() == [0, 0, 0, 0, 0, 0, 0]
    teleop.on_buttons([0, 1], 0.0)
    assert teleop.action(0.0)[0][6] == -1 and teleop.action(0.0)[1]
    teleop.on_executed(grip(-1))
    teleop.on_buttons([0, 1], 1.0)
    assert teleop.action(1.0)[0][6] == -1, "a held button counts once"
    teleop.on_buttons([1, 0], 2.0)
    assert teleop.action(2.0)[1] and teleop.action(2.0)[0][6] == 0, "0 keeps the gripper"
    teleop.on_buttons([], 2.0)
    assert not teleop.action(2.0)[1]
    teleop.on_buttons([0, 1], 3.0)
    teleop.on_buttons([0, 0], 3.01)
    assert teleop.action(3.1)[0][6] == 1 and teleop.action(3.1)[1], "a short press counts, and opens the closed gripper"
    assert teleop.action(3.31)[0][6] == 0


@pytest.mark.parametrize("period_s", [0.05, 0.1, 0.25])
def test_press_of_the_gripper_button_lasts_three_control_periods(period_s: float) -> None:
    """A debounced gripper needs two periods, at every control rate."""
    teleop = TeleopLogic(TeleopMap(gripper=True), period_s)
    teleop.on_buttons([0, 1], 0.0)
    teleop.on_buttons([0, 0], 0.01)
    assert [teleop.action(0.02 + k * period_s)[0][6] for k in range(4)] == [-1, -1, -1, 0]


def test_buttons_of_a_stopped_driver_are_released() -> None:
    teleop = TeleopLogic(TeleopMap(gripper=True, gripper_button=1, override_button=0))
    teleop.on_buttons([1, 1], 0.0)
    teleop.on_same_buttons(1.0)
    assert teleop.action(1.0 + HELD_S - 0.01)[1], "repeated by the driver: still held"
    assert not teleop.action(1.0 + HELD_S + 0.01)[1], "the buttons have their own age, independent of the twist"
    # After the gap the button is still held, which is no second press.
    teleop.on_executed(grip(-1))
    teleop.on_buttons([1, 1], 2.0)
    assert teleop.action(2.0)[0][6] == -1


def test_button_closes_the_gripper_that_the_policy_opened() -> None:
    teleop = TeleopLogic(TeleopMap(gripper=True, gripper_button=1))
    for executed, asked in ((grip(-1), 1), (grip(0.2), 1), (grip(1), -1)):
        teleop.on_executed(executed)
        teleop.on_buttons([0, 1], 0.0)
        assert teleop.action(0.0)[0][6] == asked
        teleop.on_buttons([0, 0], 0.0)


@pytest.mark.parametrize(
    "bad",
    [{"axis_map": (0, 1, 2, 3, 4, 6)}, {"axis_map": (0,)}, {"axis_scale": (1.0,) * 5}, {"dead_band": 1.0}],
)
def test_invalid_maps_are_refused(bad: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        TeleopMap(**bad)  # type: ignore[arg-type]


def grip(value: float) -> list[float]:
    return [0.0] * 6 + [value]


def send(logic: GripperLogic, text: str, period_s: float = 0.1) -> str:
    """Send executed actions: `o` opens, `c` closes, `k` keeps, `h` is a HOLD. Return the commands as O, C or `.`."""
    values = {"o": 1.0, "c": -1.0, "k": 0.2, "h": 0.0}
    sent = ""
    for k, letter in enumerate(text):
        source = Source.HOLD if letter == "h" else Source.POLICY
        width_m = logic.on_executed(grip(values[letter]), source, k * period_s)
        sent += "." if width_m is None else "O" if width_m else "C"
    return sent


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ("ooo", ".O."),
        ("cococo", "......"),
        ("occoo", "..C.O"),
        ("chc", "..C"),
        ("chchhhc", "..C...."),
        ("ckc", "..C"),
        ("c" + 11 * "k" + "cc", 12 * "." + ".C"),  # forgotten after 1 s
    ],
)
def test_gripper_debounces_and_sends_only_changes(asked: str, sent: str) -> None:
    assert send(GripperLogic(GripperConfig(debounce_s=0.05)), asked) == sent


@given(st.text("hk", max_size=3), st.sampled_from([0.05, 0.1, 0.2]))
def test_request_survives_actions_without_a_request(between: str, period_s: float) -> None:
    assert "C" in send(GripperLogic(GripperConfig(debounce_s=0.05)), f"c{between}c", period_s)


def test_gripper_ignores_holds_and_actions_without_gripper() -> None:
    gripper = GripperLogic(GripperConfig())
    assert gripper.on_executed(grip(1), Source.HOLD, 0.0) is None
    assert gripper.on_executed([0.0] * 6, Source.POLICY, 0.0) is None
    assert gripper.on_executed(grip(float("nan")), Source.POLICY, 0.0) is None
