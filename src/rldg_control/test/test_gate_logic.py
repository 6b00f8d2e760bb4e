"""Guarantees of the gate, most of them for arbitrary sequences of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_control.gate.logic import GateLogic
from rldg_control.gate.state import Command, GateConfig, Phase
from rldg_control.pace.lock_step import LockStepGate
from rldg_control.pace.real_time import HUMAN_WINDOW_S, RealTimeGate
from rldg_core.commands import command_of
from rldg_core.errors import UserError
from rldg_core.frames import SafetyBox, compose_delta, delta_between, offset_from, pose
from rldg_core.task import ActionConfig
from rldg_core.types import Source

TARGET = pose([0.6, 0.0, 0.15], [1.0, 0.0, 0.0, 0.0])
BOX = SafetyBox(TARGET, np.array([-0.05, 0.0, -0.02, -0.05, 0.0, -0.1]), np.array([0.05, 0.0, 0.05, 0.05, 0.0, 0.1]))
WIDE = SafetyBox(TARGET, np.full(6, -2.0), np.full(6, 2.0))
PERIOD_S = 0.1
MS = 1_000_000


def config(**changes: object) -> GateConfig:
    return GateConfig(**{"action": ActionConfig(), "box": BOX, "period_s": PERIOD_S, **changes})  # type: ignore[arg-type]


def act(x: float = 0.0, dim: int = 6) -> np.ndarray:
    return np.array([x] + [0.0] * (dim - 1), dtype=np.float32)


def running(**changes: object) -> GateLogic:
    gate = GateLogic(config(**changes), RealTimeGate)
    assert gate.on_start("e/0", 0, 0.0) is None
    return gate


def test_pure_translation_never_rotates() -> None:
    start = compose_delta(TARGET, [0, 0, 0, 0.3, -0.2, 0.5])
    target, executed, _, _ = command_of(np.array([1, -1, 1, 0, 0, 0], dtype=np.float32), start, ActionConfig(), WIDE)
    delta = delta_between(start, target)
    np.testing.assert_allclose(delta, [0.015, -0.015, 0.015, 0, 0, 0], atol=1e-12)
    np.testing.assert_array_equal(executed, [1, -1, 1, 0, 0, 0])


def test_limits_of_zero_allow_no_motion() -> None:
    target, executed, _, clipped = command_of(
        np.array([0, 1, 0, 0, 1, 0], dtype=np.float32), TARGET, ActionConfig(), BOX
    )
    offset = offset_from(TARGET, target)
    assert clipped and abs(offset[1]) < 1e-9 and abs(offset[4]) < 1e-9
    np.testing.assert_allclose(executed, 0.0, atol=1e-6)


def test_answer_that_arrives_before_its_observation_is_executed_with_it() -> None:
    gate = running()
    assert gate.on_policy_action(100 * MS, act(0.5), "p", 1, 0.01) is None
    assert gate.on_observation(50 * MS, TARGET, 0.015) is None, "answers another observation"
    done = gate.on_observation(100 * MS, TARGET, 0.02)
    assert done is not None
    assert done.executed.observation_stamp_ns == 100 * MS
    assert done.executed.source is Source.POLICY
    assert gate.on_observation(200 * MS, TARGET, 0.12) is None, "once"


actions = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=6, max_size=6)
offsets = st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6)


@settings(max_examples=80, deadline=None)
@given(actions, offsets)
def test_executed_action_is_bounded_and_the_target_is_in_the_box(action: list[float], offset: list[float]) -> None:
    measured = compose_delta(TARGET, offset)
    target, executed, _, box_clipped = command_of(np.array(action, dtype=np.float32), measured, ActionConfig(), BOX)
    inside = offset_from(TARGET, target)
    assert np.all(inside >= BOX.low - 1e-6) and np.all(inside <= BOX.high + 1e-6)
    assert executed.dtype == np.float32 and np.all(np.isfinite(executed)) and np.all(np.abs(executed) <= 1.0)
    real = config().action.from_delta_tcp(delta_between(measured, target))
    np.testing.assert_allclose(executed, np.clip(real, -1, 1), atol=1e-5)
    assert box_clipped or np.all(np.abs(real) <= 1.0 + 1e-6)


def test_measured_pose_far_outside_the_box_saturates_the_action() -> None:
    measured = compose_delta(TARGET, [0, 0, 0, 0, 0, 0])
    measured[0] += 0.2
    target, executed, _, clipped = command_of(act(), measured, ActionConfig(), BOX)
    assert clipped and offset_from(TARGET, target)[0] == pytest.approx(0.05) and abs(executed[0]) == 1.0


@pytest.mark.parametrize(
    "bad", [[np.nan] + [0.0] * 5, [np.inf] + [0.0] * 5, [-np.inf] * 6, [0.0] * 5, [0.0] * 7, [], [[0.0] * 6]]
)
def test_invalid_actions_are_rejected_and_counted(bad: list[float]) -> None:
    gate = running()
    gate.on_observation(1, TARGET, 0.0)
    assert gate.on_policy_action(1, bad, "p", 1, 0.01) is None
    assert gate.on_teleop(1, bad, True, Source.HUMAN, 0.02) is None
    assert gate.counters.rejected_actions == 2 and gate.counters.executed == 0
    gate.on_observation(2, TARGET, 0.1)
    assert gate.counters.overridden == 0, "a rejected human input must not override"


def test_invalid_measured_pose_is_rejected() -> None:
    gate = running()
    for broken in (np.full(7, np.nan), np.zeros(7)):
        assert gate.on_observation(1, broken, 0.0) is None
    assert gate.counters.rejected_observations == 2
    assert gate.on_policy_action(1, act(), "p", 1, 0.0) is None


def test_gripper_component_survives_a_hold() -> None:
    gate = running(action=ActionConfig(gripper=True))
    gate.on_observation(1, TARGET, 0.0)
    done = gate.on_policy_action(1, np.append(act(), np.float32(-3.0)), "p", 1, 0.0)
    assert done and done.executed.executed[6] == -1.0 and done.executed.action_clipped
    held = gate.hold("stop", 0.05)
    assert held and held.executed.executed.tolist() == [0, 0, 0, 0, 0, 0, -1]


# --- real time ------------------------------------------------------------------------------------


def test_each_observation_is_answered_once() -> None:
    gate = running()
    gate.on_observation(1, TARGET, 0.0)
    done = gate.on_policy_action(1, act(0.5), "p", 3, 0.01)
    assert done and done.executed.source is Source.POLICY and done.executed.policy_version == 3
    assert gate.on_policy_action(1, act(0.5), "p", 3, 0.02) is None
    assert gate.on_policy_action(0, act(0.5), "p", 3, 0.02) is None
    assert gate.on_policy_action(99, act(0.5), "p", 3, 0.02) is None, "answers no known observation"
    assert gate.on_observation(100, TARGET, 0.1) is None, "nor this one"
    assert gate.counters.late_actions == 3


def test_action_for_an_old_observation_is_late() -> None:
    gate = running()
    gate.on_observation(1, TARGET, 0.0)
    assert gate.on_policy_action(1, act(), "p", 0, 0.21) is None and gate.counters.late_actions == 1


def test_human_overrides_within_one_tick_and_releases_after_0_2_s() -> None:
    gate = running()
    gate.on_observation(1, TARGET, 0.0)
    gate.on_teleop(0, act(-1.0), True, Source.HUMAN, 0.005)
    done = gate.on_policy_action(1, act(1.0), "p", 0, 0.01)
    assert done and done.executed.source is Source.HUMAN and done.executed.executed[0] == -1.0
    assert done.executed.policy_id == "p"
    done = gate.on_observation(2, TARGET, 0.1)
    assert done and done.executed.source is Source.HUMAN, "executed on the observation, without waiting for the policy"
    gate.on_teleop(0, act(5e-4), False, Source.HUMAN, 0.15)
    done = gate.on_observation(3, TARGET, 0.2)
    assert done and done.executed.source is Source.HUMAN and not done.executed.executed.any(), "human input is inactive"
    after_s = 0.005 + HUMAN_WINDOW_S + 0.01
    assert gate.on_observation(4, TARGET, after_s) is None
    done = gate.on_policy_action(4, act(1.0), "p", 0, after_s)
    assert done and done.executed.source is Source.POLICY


def test_one_missing_action_is_counted_and_two_latch() -> None:
    gate = running()
    for tick in range(20):
        now_s = 2.0 + tick * PERIOD_S
        gate.on_observation(tick + 1, TARGET, now_s)
        if tick % 2:  # every second action is missing
            gate.on_policy_action(tick + 1, act(), "p", 0, now_s + 0.02)
        assert gate.on_time(now_s + 0.09) is None
    assert gate.phase is Phase.RUNNING and gate.counters.missed_actions == 10
    assert gate.on_observation(30, TARGET, 4.0) is None
    assert gate.on_observation(31, TARGET, 4.1) is None
    assert gate.on_time(4.19) is None
    held = gate.on_time(4.21)
    assert held and held.executed.source is Source.HOLD and gate.reason == "no action from policy for 0.21 s"
    np.testing.assert_array_equal(held.target_base_tcp, TARGET)
    silent_after(gate, 4.3)


def test_policy_without_an_action_holds_without_a_latch() -> None:
    gate = running(action=ActionConfig(gripper=True))
    outside = compose_delta(TARGET, [0.2, 0, 0, 0, 0, 0])
    gate.on_observation(1, TARGET, 0.0)
    gate.on_policy_action(1, act(0.5, 7) - np.eye(7, dtype=np.float32)[6], "p", 3, 0.01)
    for tick in range(2, 30):
        now_s = 0.1 * (tick - 1)
        assert gate.on_observation(tick, outside, now_s) is None
        done = gate.on_policy_action(tick, act(0.0, 7), "p", 3, now_s + 0.05, hold=True)
        assert done and done.executed.source is Source.HOLD and gate.on_time(now_s + 0.09) is None
        np.testing.assert_array_equal(done.target_base_tcp, outside)
        assert done.executed.executed.tolist() == [0, 0, 0, 0, 0, 0, -1], "the gripper keeps its command"
        assert (done.executed.policy_id, done.executed.policy_version) == ("p", 3)
    assert gate.phase is Phase.RUNNING and gate.counters.held == 28 and gate.counters.latches == 0
    gate.on_observation(30, TARGET, 2.9)
    gate.on_teleop(0, act(-1.0, 7), True, Source.HUMAN, 2.9)
    done = gate.on_policy_action(30, act(0.0, 7), "p", 3, 2.91, hold=True)
    assert done and done.executed.source is Source.HUMAN and done.executed.executed[0] == -1.0
    latched = gate.hold("stop", 2.95)
    assert latched and latched.executed.policy_id == "", "a hold of the gate names no policy"


def silent_after(gate: GateLogic, now_s: float) -> None:
    assert gate.phase is Phase.LATCHED
    assert gate.on_observation(1000, TARGET, now_s) is None
    assert gate.on_policy_action(1000, act(), "p", 0, now_s) is None
    assert gate.on_teleop(1000, act(1.0), True, Source.HUMAN, now_s) is None
    assert gate.on_start("e/9", 0, now_s) is None
    assert gate.on_time(now_s + 9) is None and gate.hold("again", now_s) is None
    assert gate.counters.latches == 1


def test_lost_observer_latches_and_blocks_the_release() -> None:
    gate = running()
    gate.on_observation(1, TARGET, 2.0)
    gate.on_policy_action(1, act(), "p", 0, 2.01)
    assert gate.on_time(2.2) is None
    held = gate.on_time(2.26)
    assert held and gate.reason == "no observation for 0.26 s"
    done, line = gate.release(2.5)
    assert not done and "none has arrived since" in line
    gate.on_observation(2, TARGET, 2.6)
    assert gate.release(2.65)[0] and gate.phase is Phase.IDLE


def test_stale_observation_is_not_executed_and_latches() -> None:
    gate = running()
    for tick in range(14):
        gate.on_observation(tick, TARGET, tick * PERIOD_S, age_s=3600.0)  # the clock jumps by an hour
        assert gate.on_policy_action(tick, act(), "p", 0, tick * PERIOD_S) is None
    assert gate.counters.stale_observations == 14
    assert gate.on_time(1.4) is None, "without a measured pose nothing is sent"
    assert gate.phase is Phase.LATCHED
    assert gate.reason == (
        "no usable observation for 1.40 s: observations are 3600.00 s old by their stamps, limit 0.20 s "
        "(late camera stamps, or a clock that differs)"
    )


@pytest.mark.parametrize(
    ("pose", "age_s", "reason"),
    [
        (TARGET, np.inf, "the clock does not run: use_sim_time is true and nothing publishes /clock"),
        (TARGET, -0.5, "observations are 0.50 s in the future by their stamps, limit 0.20 s (late camera stamps"),
        (np.full(7, 1e300), 0.0, "pose_base_tcp: 1.732e+300 m from base, expected at most 2 m"),
    ],
)
def test_latch_names_why_observations_are_unusable(pose: Any, age_s: float, reason: str) -> None:
    gate = running()
    for tick in range(14):
        gate.on_observation(tick, np.asarray(pose), tick * PERIOD_S, age_s)
    gate.on_time(1.4)
    assert gate.phase is Phase.LATCHED and gate.reason.startswith(f"no usable observation for 1.40 s: {reason}")


def test_latch_without_observations_names_the_fault_of_the_observer() -> None:
    gate = running()
    gate.on_observer("observer: /camera/image: late")
    gate.on_time(1.4)
    assert gate.reason == "no observation for 1.40 s: observer: /camera/image: late"


def test_second_publisher_latches_is_named_and_blocks_the_release() -> None:
    gate = running()
    gate.on_observation(1, TARGET, 0.0)
    assert gate.on_publishers((), "/target_pose", 0.0) is None
    assert gate.on_publishers(("/rogue",), "/target_pose", 0.1)
    assert gate.reason == "/target_pose: second publisher /rogue, expected only the gate: stop it"
    assert gate.release(0.2) == (False, "still latched: /rogue still publishes targets")
    gate.on_publishers((), "/target_pose", 0.3)
    assert gate.release(0.4)[0]


def test_only_a_person_moves_the_arm_between_episodes() -> None:
    for allowed in (True, False):
        gate = GateLogic(config(teleop_without_episode=allowed), RealTimeGate)
        gate.on_observation(1, TARGET, 0.0)
        assert gate.on_policy_action(1, act(), "p", 0, 0.0) is None
        gate.on_teleop(0, act(1.0), True, Source.HUMAN, 0.01)
        assert (gate.on_observation(2, TARGET, 0.1) is not None) is allowed


def test_inactive_teleoperation_without_policy_is_recorded_as_zero() -> None:
    gate = running(wait_for_policy=False)
    gate.on_teleop(0, act(5e-4), False, Source.HUMAN, 0.0)
    done = gate.on_observation(1, TARGET, 0.05)
    assert done and done.executed.source is Source.HUMAN and not done.executed.executed.any()
    assert gate.on_policy_action(1, act(), "p", 0, 0.06) is None


def test_stop_with_an_old_observation_sends_nothing() -> None:
    gate = GateLogic(config(), RealTimeGate)
    gate.on_observation(1, TARGET, 0.0)
    assert gate.hold("stop", 5.0) is None and gate.phase is Phase.LATCHED


# --- lock-step ------------------------------------------------------------------------------------


def test_lock_step_waits_for_all_inputs_in_any_order() -> None:
    inputs = {
        "start": lambda g: g.on_start("e/0", 100, 0.0),
        "observation": lambda g: g.on_observation(100, TARGET, 0.0),
        "policy": lambda g: g.on_policy_action(100, act(0.3), "p", 0, 0.0),
        "operator": lambda g: g.on_teleop(100, act(0.7), True, Source.SCRIPTED, 0.0),
    }
    from itertools import permutations

    for order in permutations(inputs):
        gate = GateLogic(config(wait_for_operator=True), LockStepGate)
        results = [inputs[name](gate) for name in order]
        assert results[:3] == [None] * 3
        assert results[3].executed.source is Source.SCRIPTED and results[3].executed.observation_stamp_ns == 100


def test_lock_step_waits_for_the_previous_step() -> None:
    gate = GateLogic(config(), LockStepGate)
    gate.on_start("e/0", 1, 0.0)
    gate.on_observation(1, TARGET, 0.0)
    assert gate.on_policy_action(1, act(), "p", 0, 0.0)
    gate.on_observation(2, TARGET, 0.0)
    assert gate.on_policy_action(2, act(), "p", 0, 0.0) is None
    assert gate.on_step("other", 0, False, 0.0) is None
    assert gate.on_step("e/0", 0, False, 0.0)
    gate.on_observation(3, TARGET, 0.0)
    assert gate.on_step("e/0", 1, True, 0.0) is None and gate.phase is Phase.IDLE
    assert gate.on_policy_action(3, act(), "p", 0, 0.0) is None
    assert gate.hold("stop", 0.0) is None, "the cell does not advance between episodes"


def test_lock_step_executes_repeated_messages_once() -> None:
    gate = GateLogic(config(), LockStepGate)
    inputs = []

    def put(*calls: object) -> list[int]:
        """Feed the calls, then all calls so far once more, topic by topic; return the stamps that were executed."""
        inputs.extend(calls)
        by_topic = sorted(inputs, key=lambda call: call[0])
        done = [getattr(gate, name)(*arguments, 0.0) for name, *arguments in [*calls, *by_topic]]
        return [command.executed.observation_stamp_ns for command in done if command]

    assert put(("on_start", "e/0", 1), ("on_observation", 1, TARGET)) == []
    assert put(("on_policy_action", 1, act(), "p", 0)) == [1]
    assert put(("on_observation", 2, TARGET), ("on_step", "e/0", 0, False)) == []
    assert put(("on_policy_action", 2, act(), "p", 0)) == [2]
    assert put(("on_observation", 3, TARGET), ("on_policy_action", 3, act(), "p", 0)) == []
    assert put(("on_step", "e/0", 1, True)) == [] and gate.phase is Phase.IDLE
    assert put(("on_start", "e/1", 5), ("on_observation", 5, TARGET), ("on_policy_action", 5, act(), "p", 0)) == [5]
    assert gate.counters.executed == 3


def test_lock_step_latches_on_an_invalid_answer_at_its_tick() -> None:
    gate = GateLogic(config(), LockStepGate)
    gate.on_start("e/0", 1, 0.0)
    assert gate.on_policy_action(1, [np.nan] * 6, "p", 0, 0.0) is None
    held = gate.on_observation(1, TARGET, 0.0)
    assert held and held.executed.source is Source.HOLD and gate.reason.startswith("policy p: action has NaN")


def test_lock_step_inactive_operator_and_time_leave_the_policy_in_control() -> None:
    gate = GateLogic(config(wait_for_operator=True), LockStepGate)
    gate.on_start("e/0", 1, 0.0)
    gate.on_observation(1, TARGET, 0.0)
    assert gate.on_time(1e6) is None
    gate.on_teleop(1, act(0.7), False, Source.SCRIPTED, 1e6)
    done = gate.on_policy_action(1, act(0.3), "p", 0, 1e6)
    assert done and done.executed.source is Source.POLICY


def test_lock_step_without_any_source_is_refused() -> None:
    with pytest.raises(UserError, match="wait_for_policy"):
        GateLogic(config(wait_for_policy=False), LockStepGate)


# --- between episodes -----------------------------------------------------------------------------


def test_episode_does_not_report_the_policy_of_the_previous_one() -> None:
    gate = running()
    gate.on_observation(1, TARGET, 0.0)
    first = gate.on_policy_action(1, act(), "old", 7, 0.01)
    assert first and (first.executed.policy_id, first.executed.policy_version) == ("old", 7)
    gate.on_end("e/0")
    # The policy is swapped, and a person acts before the first answer of the new one.
    gate.on_start("e/1", 2, 0.1)
    gate.on_teleop(2, act(0.5), True, Source.HUMAN, 0.11)
    done = gate.on_observation(2, TARGET, 0.12)
    assert done and done.executed.source is Source.HUMAN
    assert (done.executed.policy_id, done.executed.policy_version) == ("", 0)


# --- any sequence ---------------------------------------------------------------------------------

inputs = st.lists(
    st.tuples(
        st.sampled_from(
            ["observation", "policy", "teleop", "step", "start", "end", "hold", "release", "time", "rogue"]
        ),
        st.integers(0, 6),
        st.sampled_from([0.0, 0.3, -1.0, 7.0, np.nan, np.inf, 1e30]),
        st.floats(0.0, 0.3),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(inputs, st.booleans(), st.booleans(), st.booleans())
def test_guarantees_hold_for_any_sequence(
    sequence: list[tuple[str, int, float, float, bool]], in_lock_step: bool, policy: bool, operator: bool
) -> None:
    gate = GateLogic(
        config(
            wait_for_policy=policy or (in_lock_step and not operator),
            wait_for_operator=operator,
            teleop_without_episode=False,
        ),
        LockStepGate if in_lock_step else RealTimeGate,
    )
    now_s, silent, in_episode = 0.0, False, False
    for kind, number, value, dt_s, flag in sequence:
        now_s += dt_s
        measured = compose_delta(TARGET, [value if np.isfinite(value) and abs(value) < 1 else 0.0] * 6)
        command: Command | None = None
        was_latched = gate.phase is Phase.LATCHED
        match kind:
            case "observation":
                command = gate.on_observation(number, measured, now_s, age_s=dt_s)
            case "policy":
                command = gate.on_policy_action(number, [value] * (5 if flag else 6), "p", 0, now_s, hold=dt_s > 0.2)
            case "teleop":
                command = gate.on_teleop(number, [value] * 6, flag, Source.HUMAN, now_s)
            case "step":
                command = gate.on_step("e", number, flag, now_s)
                in_episode &= not flag
            case "start":
                command = gate.on_start("e", number, now_s)
                in_episode = in_episode or not was_latched
            case "end":
                gate.on_end("e")
                in_episode = False
            case "hold":
                command = gate.hold("asked", now_s)
            case "release":
                released, _ = gate.release(now_s)
                silent &= not released
            case "time":
                command = gate.on_time(now_s)
            case "rogue":
                command = gate.on_publishers(("/rogue",) if flag else (), "/target_pose", now_s)
        if command:
            assert not silent, "something was sent after a latch"
            executed = command.executed
            assert np.all(np.isfinite(executed.executed)) and np.all(np.abs(executed.executed) <= 1.0)
            assert np.all(np.isfinite(command.target_base_tcp))
            if executed.source is Source.HOLD and executed.policy_id:
                assert in_episode and not was_latched and not np.any(executed.executed)
            elif executed.source is Source.HOLD:
                assert gate.phase is Phase.LATCHED and gate.reason, (
                    "the last command is the hold, with the reason of the latch"
                )
            else:
                assert in_episode and not was_latched
                inside = offset_from(TARGET, command.target_base_tcp)
                assert np.all(inside >= BOX.low - 1e-6) and np.all(inside <= BOX.high + 1e-6)
        if gate.phase is Phase.LATCHED:
            silent, in_episode = True, False
