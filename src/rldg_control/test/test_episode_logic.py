from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_control.episode_logic import (
    MISSING_REWARDS,
    STACK_FAULT,
    EpisodeLogic,
    EpisodeStart,
    Event,
    Outcome,
    RewardSample,
    StepRecord,
    start_fault,
)
from rldg_control.pace.lock_step import LockStepSteps
from rldg_control.pace.real_time import PROGRESS_S, RealTimeSteps
from rldg_core.frames import pose_at
from rldg_core.task import ResetConfig

NO, YES, LOST = RewardSample(), RewardSample(success=True), RewardSample(failure=True)
PERIOD_NS = 100_000_000


def lock_step(max_steps: int = 10, rewarded: bool = True) -> EpisodeLogic:
    return EpisodeLogic(max_steps, rewarded, LockStepSteps(0.1))


def realtime(max_steps: int = 10, rewarded: bool = True) -> EpisodeLogic:
    return EpisodeLogic(max_steps, rewarded, RealTimeSteps(0.1))


def check_contract(events: list[Event], max_steps: int) -> Outcome:
    """Check every rule of 'Step semantics' on one complete episode."""
    start, *steps, outcome = events
    assert isinstance(start, EpisodeStart) and isinstance(outcome, Outcome)
    assert all(isinstance(s, StepRecord) for s in steps)
    records = [s for s in steps if isinstance(s, StepRecord)]
    assert [s.index for s in records] == list(range(len(records)))
    assert [s.step_count for s in records] == [start.step_count + s.index for s in records]
    assert outcome.steps <= max_steps and outcome.step_count == start.step_count + outcome.steps
    assert outcome.terminated != outcome.truncated
    if not records:
        assert outcome.steps == 0 and outcome.truncated
        return outcome
    *transitions, last = records
    assert len(transitions) == outcome.steps
    assert last.is_last and last.action is None and last.reward == 0.0
    assert (last.terminated, last.truncated, last.success) == (outcome.terminated, outcome.truncated, outcome.success)
    assert not any(s.terminated or s.truncated or s.success or s.reward for s in transitions[:-1])
    for step in transitions:
        assert not step.is_last and step.action is not None and step.action[1] == step.observation[1]
        assert not (step.terminated and step.truncated) and step.reward == float(step.success)
    return outcome


def run_lock_step(logic: EpisodeLogic, first: int, verdicts: list[RewardSample], rng: random.Random) -> list[Event]:
    """Run cell, gate and reward that answer at once, with each pair of messages in random order."""
    events = logic.begin(first, 0.0)
    for k, verdict in enumerate(verdicts):
        arrivals = [
            lambda k=k: logic.on_observation(first + k, ("o", first + k), 0.0),
            lambda k=k, v=verdict: logic.on_reward(first + k, v, 0.0),
        ]
        if k:
            # The answer to k - 1 may arrive after observation k.
            arrivals.append(lambda k=k: logic.on_executed(first + k - 1, ("a", first + k - 1), False, 0.0))
        rng.shuffle(arrivals)
        # A transient-local topic repeats its last messages to a subscriber that is discovered again.
        again = [a for a in arrivals if rng.random() < 0.3]
        for arrive in arrivals + again:
            events += arrive()
    return events


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from([NO, NO, NO, YES, LOST]), min_size=1, max_size=12), st.integers(1, 8), st.integers(0, 99)
)
def test_lock_step_keeps_the_step_semantics_in_any_order(
    verdicts: list[RewardSample], max_steps: int, seed: int
) -> None:
    verdicts = [NO, *verdicts, *[NO] * max_steps]
    results = []
    for order in (seed, seed + 1):
        logic = lock_step(max_steps)
        events = run_lock_step(logic, 100, verdicts, random.Random(order))
        results.append(events)
    assert results[0] == results[1], "the result depends on the order of arrival"
    outcome = check_contract(results[0], max_steps)
    ending = next((k for k, v in enumerate(verdicts[1 : max_steps + 1]) if v != NO), max_steps - 1)
    assert outcome.steps == ending + 1
    reason = {YES: "success", LOST: "failure", NO: "time_limit"}[verdicts[ending + 1]]
    assert outcome.reason == reason


def test_step_count_continues_over_episodes() -> None:
    logic = lock_step(3)
    first = run_lock_step(logic, 100, [NO] * 4, random.Random(0))
    second = run_lock_step(logic, 200, [NO, YES], random.Random(0))
    assert check_contract(first, 3).step_count == 3
    assert check_contract(second, 3).step_count == 4 and second[0] == EpisodeStart(200, 3)


def test_first_frame_may_precede_the_reset_response() -> None:
    logic = lock_step()
    logic.on_observation(99, ("o", 99), 0.0)
    logic.on_observation(100, ("o", 100), 0.0)
    assert logic.begin(100, 0.0) == [EpisodeStart(100, 0)]


def test_reward_of_the_previous_episode_is_ignored() -> None:
    logic = realtime()
    logic.on_reward(PERIOD_NS, YES, 0.0)
    events = logic.begin(2 * PERIOD_NS, 0.0)
    for k in (2, 3):
        events += logic.on_observation(k * PERIOD_NS, ("o", k * PERIOD_NS), 0.0)
        events += logic.on_executed(k * PERIOD_NS, ("a", k * PERIOD_NS), False, 0.0)
    steps = [e for e in events if isinstance(e, StepRecord)]
    assert len(steps) == 1 and not steps[0].success and logic.missing_rewards == 1


@pytest.mark.parametrize(("age", "success"), [(0, True), (2, True), (3, False)])
def test_realtime_takes_the_newest_reward_within_two_periods(age: int, success: bool) -> None:
    logic = realtime()
    events = logic.begin(0, 0.0)
    for k in range(6):
        if k == 5:
            logic.on_reward((5 - age) * PERIOD_NS, YES, 0.0)
        events += logic.on_observation(k * PERIOD_NS, ("o", k * PERIOD_NS), 0.0)
        events += logic.on_executed(k * PERIOD_NS, ("a", k * PERIOD_NS), False, 0.0)
    assert [e.index for e in events if isinstance(e, StepRecord) and e.success] == ([4, 5] if success else [])


def test_classifier_reward_is_awaited_and_assigned_by_stamp() -> None:
    logic = EpisodeLogic(10, True, RealTimeSteps(0.1, exact_rewards=True))
    logic.begin(0, 0.0)
    logic.on_observation(0, "o", 0.0)
    logic.on_executed(0, "a", False, 0.0)
    logic.on_reward(0, YES, 0.0)  # for the first observation, which ends no step
    assert logic.on_observation(PERIOD_NS, "o", 0.0) == []
    (step,) = logic.on_reward(PERIOD_NS, NO, 0.0)
    assert isinstance(step, StepRecord) and not step.success
    logic.on_executed(PERIOD_NS, "a", False, 0.0)
    assert logic.on_observation(2 * PERIOD_NS, "o", 0.0) == []
    # The reward of observation 2 is lost: observation 3 ends the wait, and the next reward counts again.
    (step,) = logic.on_observation(3 * PERIOD_NS, "o", 0.0)
    assert isinstance(step, StepRecord) and not step.success and logic.missing_rewards == 1
    logic.on_executed(2 * PERIOD_NS, "a", False, 0.0)
    step, last, outcome = logic.on_reward(3 * PERIOD_NS, YES, 0.0)
    assert isinstance(step, StepRecord) and step.success and step.index == 2
    assert isinstance(last, StepRecord) and isinstance(outcome, Outcome) and outcome.reason == "success"


def test_realtime_skips_an_unanswered_observation() -> None:
    logic = realtime(max_steps=3, rewarded=False)
    events = logic.begin(0, 0.0)
    for k in range(6):
        events += logic.on_observation(k, ("o", k), 0.0)
        if k != 2:
            events += logic.on_executed(k, ("a", k), False, 0.0)
    assert check_contract(events, 3).reason == "time_limit" and logic.skipped_observations == 1
    assert [e.observation[1] for e in events if isinstance(e, StepRecord)] == [0, 1, 3, 4]


@pytest.mark.parametrize("success", [True, False])
def test_label_terminates_at_the_next_observation(success: bool) -> None:
    logic = lock_step(rewarded=False)
    assert not logic.label(success)
    events = run_lock_step(logic, 100, [NO] * 3, random.Random(0))
    assert logic.label(success)
    events += logic.on_executed(102, ("a", 102), False, 0.0)
    events += logic.on_observation(103, ("o", 103), 0.0)
    outcome = check_contract(events, 10)
    assert outcome.reason == "label" and outcome.terminated and outcome.success is success and outcome.steps == 3


def test_cancel_truncates_at_the_next_observation() -> None:
    logic = lock_step()
    events = run_lock_step(logic, 100, [NO] * 3, random.Random(0))
    logic.stop("cancelled", 0.0)
    events += logic.on_executed(102, ("a", 102), False, 0.0)
    events += logic.on_observation(103, ("o", 103), 0.0) + logic.on_reward(103, NO, 0.0)
    outcome = check_contract(events, 10)
    assert outcome.reason == "operator_stop" and outcome.detail == "cancelled" and outcome.steps == 3


def test_hold_for_the_observation_is_the_last_action() -> None:
    logic = lock_step()
    events = run_lock_step(logic, 100, [NO] * 3, random.Random(0))
    events += logic.on_executed(102, ("a", 102), True, 0.0)
    events += logic.on_reward(103, NO, 0.0) + logic.on_observation(103, ("o", 103), 0.0)
    outcome = check_contract(events, 10)
    assert outcome.truncated and outcome.steps == 3 and outcome.detail == "the gate latched"


def test_hold_after_the_answer_ends_the_episode_at_the_pending_observation() -> None:
    for late in (False, True):
        logic = lock_step()
        events = run_lock_step(logic, 100, [NO] * 3, random.Random(0))  # 101 answered, 102 pending
        if late:
            events += logic.on_executed(101, ("a", 101), True, 0.0)
        else:
            events += logic.on_executed(102, ("a", 102), False, 0.0)
            events += logic.on_executed(102, ("h", 102), True, 0.0)
            events += logic.on_reward(103, NO, 0.0) + logic.on_observation(103, ("o", 103), 0.0)
        outcome = check_contract(list(events), 10)
        assert outcome.truncated and outcome.steps == (2 if late else 3)


def test_realtime_episode_ends_without_progress_or_after_a_hold() -> None:
    logic = realtime()
    events = logic.begin(0, 0.0) + logic.on_observation(0, ("o", 0), 0.0)
    assert logic.on_time(PROGRESS_S - 0.1) == []
    events += logic.on_time(PROGRESS_S + 0.1)
    assert check_contract(events, 10).steps == 0
    events = logic.begin(1, 5.0) + logic.on_observation(1, ("o", 1), 5.0)
    events += logic.on_executed(1, ("a", 1), False, 5.0) + logic.on_observation(2, ("o", 2), 5.1)
    events += logic.on_executed(2, ("a", 2), True, 5.1)
    assert logic.on_time(5.3) == []
    events += logic.on_time(5.5)
    assert check_contract(events, 10).steps == 1


@pytest.mark.parametrize(
    ("observed", "executed", "detail"),
    [
        (True, False, "no executed action for 2 s: does the gate run?"),
        (False, True, "no observation for 2.1 s: does the observer run?"),
    ],
)
def test_silent_node_is_named_and_the_episode_does_not_count(observed: bool, executed: bool, detail: str) -> None:
    logic = realtime(rewarded=False)
    events = logic.begin(0, 0.0) + logic.on_observation(0, ("o", 0), 0.0)
    for k in range(1, 22):
        if observed:
            events += logic.on_observation(k, ("o", k), k / 10)
        if executed:
            events += logic.on_executed(100 + k, ("a", k), False, k / 10)
        events += logic.on_time(k / 10)
    outcome = check_contract(events, 10)
    assert (outcome.reason, outcome.detail, outcome.is_result) == (STACK_FAULT, detail, False)


@pytest.mark.parametrize(
    ("max_steps", "steps"), [(3, 3), (100, MISSING_REWARDS)], ids=["none before the time limit", "many successive ones"]
)
@pytest.mark.parametrize("exact", [True, False])
def test_episode_without_rewards_is_a_stack_fault(max_steps: int, steps: int, exact: bool) -> None:
    logic = EpisodeLogic(max_steps, True, RealTimeSteps(0.1, exact_rewards=exact))
    events = logic.begin(0, 0.0)
    for k in range(steps + 3):
        events += logic.on_observation(k * PERIOD_NS, ("o", k * PERIOD_NS), k / 10)
        events += logic.on_executed(k * PERIOD_NS, ("a", k * PERIOD_NS), False, k / 10)
    outcome = check_contract(events, max_steps)
    assert (outcome.reason, outcome.steps, outcome.is_result) == (STACK_FAULT, steps, False)
    assert outcome.detail == f"no reward for {steps} observations: does its source run?"


def test_occasional_missing_rewards_do_not_end_the_episode() -> None:
    logic = realtime(max_steps=60)
    events = logic.begin(0, 0.0)
    for k in range(62):
        if k % (MISSING_REWARDS - 5) == 0:
            events += logic.on_reward(k * PERIOD_NS, NO, k / 10)
        events += logic.on_observation(k * PERIOD_NS, ("o", k * PERIOD_NS), k / 10)
        events += logic.on_executed(k * PERIOD_NS, ("a", k * PERIOD_NS), False, k / 10)
    outcome = check_contract(events, 60)
    assert (outcome.reason, outcome.is_result) == ("time_limit", True) and logic.missing_rewards > 30


def test_lock_step_has_no_time_out_but_accepts_a_stop() -> None:
    logic = lock_step()
    run_lock_step(logic, 100, [NO] * 3, random.Random(0))
    assert logic.on_time(1e9) == []
    logic.stop("cancelled", 10.0)
    assert logic.on_time(11.0) == [] and isinstance(logic.on_time(13.0)[-1], Outcome)


kinds = st.lists(
    st.tuples(
        st.sampled_from(["observation", "answer", "hold", "reward", "label", "stop", "time"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(kinds, st.booleans(), st.booleans())
def test_any_sequence_of_events_gives_complete_episodes(
    sequence: list[tuple[str, int, bool]], in_lock_step: bool, rewarded: bool
) -> None:
    logic = EpisodeLogic(4, rewarded, LockStepSteps(0.1) if in_lock_step else RealTimeSteps(0.1))
    now_s, stamp = 0.0, 0
    events = logic.begin(0, now_s)
    for kind, back, flag in sequence:
        now_s += 0.3
        match kind:
            case "observation":
                stamp += 1
                events += logic.on_observation(stamp, ("o", stamp), now_s)
            case "answer":
                events += logic.on_executed(stamp - back, ("a", stamp - back), False, now_s)
            case "hold":
                events += logic.on_executed(stamp - back, ("a", stamp - back), True, now_s)
            case "reward":
                events += logic.on_reward(stamp - back, RewardSample(flag, not flag and back == 3), now_s)
            case "label":
                logic.label(flag)
            case "stop":
                logic.stop("x", now_s)
            case "time":
                events += logic.on_time(now_s)
        if any(isinstance(e, Outcome) for e in events):
            check_contract(events, 4)
            events = logic.begin(stamp + 1, now_s)


RESET = ResetConfig(pose_base_tcp=(0.5, 0, 0.2, 1, 0, 0, 0), xy_m=0.05, z_m=0.0, yaw_rad=0.1)


def test_start_pose_is_checked() -> None:
    assert start_fault(pose_at(RESET.pose_base_tcp, [0.06, -0.06, 0.01, 0, 0, 0.15]), RESET) == ""
    assert "in x or y" in start_fault(pose_at(RESET.pose_base_tcp, [0, 0.08, 0, 0, 0, 0]), RESET)
    assert "in z" in start_fault(pose_at(RESET.pose_base_tcp, [0, 0, -0.03, 0, 0, 0]), RESET)
    assert "turned" in start_fault(pose_at(RESET.pose_base_tcp, [0, 0, 0, 0.3, 0, 0]), RESET)
