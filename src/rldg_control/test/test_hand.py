"""The state machine of the Franka Hand with a model of franka_gripper, whose cancellation stops any motion."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_control.hand import Cancel, HandConfig, HandLogic, Phase, Send

TICK_S = 0.01
OPEN_M, CLOSED_M = 0.08, 0.0
CONFIG = HandConfig(tries=3, answer_s=2.0, motion_s=3.0, retry_s=0.2, gone_s=1.0)


class Server:
    """franka_gripper with a clock of 10 ms: it polls cancellations at 30 Hz and then stops every motion.

    `fails`: whether the n-th motion fails. Answers take `delay` ticks.
    """

    def __init__(self, fails: list[bool], delay: int) -> None:
        self.fails, self.delay = fails, delay
        self.width_m = float("nan")
        self.moving: dict[int, tuple[float, int]] = {}  # number -> width, tick of its end
        self.cancelled: set[int] = set()
        self.answers: list[tuple[int, str, int, str | None]] = []  # due tick, kind, number, error
        self.started = 0
        self.stopped_by_others = 0

    def take(self, command: Send | Cancel | None, tick: int) -> None:
        if isinstance(command, Send):
            self.answers.append((tick + self.delay, "accepted", command.number, None))
            self.moving[command.number] = (command.width_m, tick + 100)
        elif isinstance(command, Cancel):
            self.answers.append((tick + self.delay, "cancel", command.number, None))
            if command.number in self.moving:
                self.cancelled.add(command.number)

    def step(self, tick: int) -> None:
        if tick % 3 == 0 and self.cancelled & set(self.moving):
            for number in list(self.moving):
                self.stopped_by_others += number not in self.cancelled
                self._end(number, "stopped", tick)
        for number, (width_m, end) in list(self.moving.items()):
            if tick >= end:
                failed = self.started < len(self.fails) and self.fails[self.started]
                self.started += 1
                self.width_m = self.width_m if failed else width_m
                self._end(number, "grasp failed" if failed else None, tick)

    def _end(self, number: int, error: str | None, tick: int) -> None:
        del self.moving[number]
        self.answers.append((tick + self.delay, "result", number, error))

    def deliver(self, logic: HandLogic, tick: int) -> None:
        due = [a for a in self.answers if a[0] <= tick]
        self.answers = [a for a in self.answers if a[0] > tick]
        for _, kind, number, error in due:
            if kind == "accepted":
                logic.on_accepted(number, True, tick * TICK_S)
            elif kind == "cancel":
                logic.on_cancel_answered(number, tick * TICK_S)
            else:
                logic.on_result(number, error, tick * TICK_S)


def play(logic: HandLogic, server: Server, requests: dict[int, float], ticks: int) -> list[Send | Cancel]:
    """Run both for some ticks; return the commands."""
    commands = []
    for tick in range(ticks):
        server.step(tick)
        server.deliver(logic, tick)
        if tick in requests:
            logic.request(requests[tick])
        command = logic.next(tick * TICK_S, True)
        if command:
            commands.append(command)
            server.take(command, tick)
        assert len(server.moving) <= 1, "one motion at a time"
    return commands


requests_over_time = st.dictionaries(st.integers(0, 400), st.sampled_from([OPEN_M, CLOSED_M]), max_size=12)


@given(requests_over_time, st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_latest_request_is_reached_and_no_cancellation_stops_another_motion(
    requests: dict[int, float], delay: int
) -> None:
    logic, server = HandLogic(CONFIG), Server([], delay)
    play(logic, server, requests, 1500)
    assert server.stopped_by_others == 0
    assert not logic.busy and logic.phase is Phase.IDLE and not logic.fault and logic.failures == 0
    if requests:
        assert server.width_m == logic.reached_m == requests[max(requests)]


@given(requests_over_time, st.lists(st.booleans(), max_size=12), st.integers(0, 10))
@settings(max_examples=150, deadline=None)
def test_failed_motion_is_retried_a_limited_number_of_times(
    requests: dict[int, float], fails: list[bool], delay: int
) -> None:
    logic, server = HandLogic(CONFIG), Server(fails, delay)
    commands = play(logic, server, requests, 3000)
    assert server.stopped_by_others == 0 and not logic.busy
    assert sum(isinstance(c, Send) for c in commands) <= CONFIG.tries * max(len(requests), 1)
    reached = bool(requests) and logic.reached_m == requests[max(requests)]
    assert reached is bool(requests and not logic.fault), "the width is reached or a fault is reported"


def test_failed_grasp_is_tried_three_times_and_reported() -> None:
    logic = HandLogic(CONFIG)
    play(logic, Server([True] * 9, 1), {0: CLOSED_M}, 110)
    assert logic.fault == "0.000 m: grasp failed (try 1 of 3, trying again)"
    logic = HandLogic(CONFIG)
    assert len(play(logic, Server([True] * 9, 1), {0: CLOSED_M}, 800)) == 3
    assert logic.fault == "0.000 m: grasp failed (given up after 3 tries)" and not logic.busy
    play(logic, Server([], 1), {0: OPEN_M}, 200)
    assert not logic.fault and logic.reached_m == OPEN_M


def started(width_m: float = CLOSED_M) -> HandLogic:
    logic = HandLogic(CONFIG)
    logic.request(width_m)
    assert logic.next(0.0, True) == Send(1, width_m)
    return logic


def test_next_goal_waits_for_cancellation_and_result() -> None:
    for order in ("cr", "rc"):
        logic = started()
        logic.on_accepted(1, True, 0.1)
        logic.request(OPEN_M)
        assert logic.next(0.2, True) == Cancel(1)
        for answer in order:
            assert logic.next(0.3, True) is None
            if answer == "c":
                logic.on_cancel_answered(1, 0.3)
            else:
                logic.on_result(1, "cancelled", 0.3)
        assert logic.next(0.4, True) == Send(2, OPEN_M) and not logic.fault


def test_missing_answers_are_reported_and_retried() -> None:
    logic = started()
    assert logic.next(1.9, True) is None
    assert logic.next(2.1, True) is None and "no answer to the goal within 2 s (try 1 of 3" in logic.fault
    assert logic.next(2.4, True) == Send(2, CLOSED_M)
    logic.on_accepted(2, True, 2.5)
    assert logic.next(5.6, True) == Cancel(2), "no result within 3 s"
    assert logic.next(7.7, True) is None and "no answer to the cancellation within 2 s (try 2 of 3" in logic.fault
    assert logic.next(8.0, True) == Send(3, CLOSED_M)
    logic.on_accepted(3, False, 8.1)
    assert logic.next(9.0, True) is None and "the server rejected the goal (given up after 3 tries)" in logic.fault


def test_goal_accepted_late_is_not_sent_again() -> None:
    logic = started()
    logic.next(2.1, True)
    logic.on_accepted(1, True, 2.2)
    assert logic.phase is Phase.RUNNING and logic.next(2.5, True) is None
    logic.on_result(1, None, 3.0)
    assert logic.reached_m == CLOSED_M and not logic.fault


def test_late_answers_to_an_earlier_goal_are_ignored() -> None:
    logic = started()
    logic.next(2.1, True)
    assert logic.next(2.4, True) == Send(2, CLOSED_M)
    logic.on_accepted(1, True, 2.5)
    logic.on_result(1, "aborted", 2.5)
    assert logic.phase is Phase.SENT


def test_request_ends_with_its_server() -> None:
    logic = started()
    logic.on_accepted(1, True, 0.1)
    assert logic.next(0.5, False) is None and logic.busy, "a short gap of discovery is tolerated"
    assert logic.next(1.6, False) is None and not logic.busy
    assert logic.fault == "the action server ended during a request"
    assert logic.next(60.0, True) is None, "a server that returns later gets no old request"
    logic.request(OPEN_M)
    assert logic.next(60.1, True) == Send(2, OPEN_M)


@pytest.mark.parametrize("width_m", [OPEN_M, CLOSED_M])
def test_repeated_request_for_the_running_motion_is_ignored(width_m: float) -> None:
    logic = started(width_m)
    logic.on_accepted(1, True, 0.1)
    logic.request(width_m)
    assert logic.next(0.2, True) is None
    logic.on_result(1, None, 1.0)
    assert logic.next(1.1, True) is None and not logic.busy and logic.reached_m == width_m
