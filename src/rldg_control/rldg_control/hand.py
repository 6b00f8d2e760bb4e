"""Sequencing of a hand's goals: one motion at a time. Without ROS.

An action server may poll for a cancellation and then stop any running motion. A goal sent right after a
cancel could be stopped by it: the next goal is sent only when the cancel and the cancelled goal were both answered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True)
class HandConfig:
    """Limits of one request: number of attempts, and times in s.

    answer_s: to accept a goal, and to end one that was cancelled. motion_s: from acceptance to result. retry_s: pause
    before the next try. gone_s: a server that is not in the graph for this long has ended, and its goal with it.
    """

    tries: int = 3
    answer_s: float = 2.0
    motion_s: float = 10.0
    retry_s: float = 0.5
    gone_s: float = 1.0


class Phase(Enum):
    """State of the newest goal."""

    IDLE = "idle"
    SENT = "goal sent"
    RUNNING = "moving"
    CANCELLING = "cancelling"


@dataclass(frozen=True)
class Send:
    """Send a goal of this width [m]; answers name its number."""

    number: int
    width_m: float


@dataclass(frozen=True)
class Cancel:
    """Cancel the goal of this number."""

    number: int


@dataclass
class _Request:
    """A width [m] that was requested and not reached yet."""

    width_m: float
    tries: int = 0


@dataclass
class _Goal:
    """The newest goal, its answers, and the error that makes it failed regardless of its result."""

    number: int = 0
    width_m: float = float("nan")
    cancel_answered: bool = False
    error: str | None = field(default=None)
    ended: bool = True


class HandLogic:
    """Turns requests and answers into commands. The newest request counts; one that failed `tries` times is dropped.

    Every answer has the number of its goal, so that a late answer about an earlier goal has no effect.
    """

    def __init__(self, config: HandConfig = HandConfig()) -> None:
        self._config = config
        self.phase = Phase.IDLE
        self.fault = ""
        """Why the newest request is not carried out; "" after a request succeeded."""
        self.reached_m: float | None = None
        """Width of the last motion that succeeded; None before the first, and while the hand moves."""
        self.failures = 0
        self._request: _Request | None = None
        self._goal = _Goal()
        self._since_s = self._seen_s = self._not_before_s = -float("inf")

    @property
    def busy(self) -> bool:
        """True while a motion runs, or a request waits for one."""
        return self.phase is not Phase.IDLE or self._request is not None

    def request(self, width_m: float) -> None:
        """Take a request; it replaces one that is not carried out yet."""
        self._request, self._not_before_s = _Request(width_m), -float("inf")

    def on_accepted(self, number: int, accepted: bool, now_s: float) -> None:
        """Take the server's answer to a goal. A late acceptance is valid, too: the hand moves."""
        if number != self._goal.number or self.phase not in (Phase.SENT, Phase.IDLE):
            return
        if accepted:
            self._enter(Phase.RUNNING, now_s)
            self._goal.ended = False
        elif self.phase is Phase.SENT:
            self._fail("the server rejected the goal", now_s)

    def on_cancel_answered(self, number: int, now_s: float) -> None:
        """Take the answer to a cancel, accepted or not: a goal that can no longer be cancelled has a result."""
        if number == self._goal.number and self.phase is Phase.CANCELLING:
            self._goal.cancel_answered = True
            self._finish(now_s)

    def on_result(self, number: int, error: str | None, now_s: float) -> None:
        """Take the result of a goal: None for success, else why not."""
        if number == self._goal.number and self.phase in (Phase.RUNNING, Phase.CANCELLING):
            self._goal.ended, self._goal.error = True, self._goal.error or error
            self._finish(now_s)

    def next(self, now_s: float, server_visible: bool) -> Send | Cancel | None:
        """Return the next command, if any. Call this after every request and answer, and periodically."""
        self._check_time_limits(now_s, server_visible)
        request, goal = self._request, self._goal
        if self.phase is Phase.IDLE and request and server_visible and now_s >= self._not_before_s:
            request.tries += 1
            self._goal = _Goal(goal.number + 1, request.width_m)
            self.reached_m = None
            self._enter(Phase.SENT, now_s)
            return Send(self._goal.number, request.width_m)
        if self.phase is Phase.RUNNING and (goal.error or (request and request.width_m != goal.width_m)):
            self._enter(Phase.CANCELLING, now_s)
            return Cancel(goal.number)
        return None

    def _check_time_limits(self, now_s: float, server_visible: bool) -> None:
        waited_s = now_s - self._since_s
        if server_visible:
            self._seen_s = now_s
        elif now_s - self._seen_s > self._config.gone_s:
            # A request does not wait for a server: the hand would move at an unexpected time.
            if self.busy:
                self.fault, self._request = "the action server ended during a request", None
                self.failures += 1
            self._enter(Phase.IDLE, now_s)
            return
        if self.phase is Phase.SENT and waited_s > self._config.answer_s:
            self._fail(f"no answer to the goal within {self._config.answer_s:g} s", now_s)
        elif self.phase is Phase.RUNNING and waited_s > self._config.motion_s:
            self._goal.error = f"no result within {self._config.motion_s:g} s"
        elif self.phase is Phase.CANCELLING and waited_s > self._config.answer_s:
            self._fail(f"no answer to the cancellation within {self._config.answer_s:g} s", now_s)

    def _finish(self, now_s: float) -> None:
        """Complete a goal that has all its answers."""
        goal, request = self._goal, self._request
        if not goal.ended or (self.phase is Phase.CANCELLING and not goal.cancel_answered):
            return
        cancelled = self.phase is Phase.CANCELLING
        if goal.error is None:
            self._enter(Phase.IDLE, now_s)
            self.reached_m = goal.width_m
            if request and request.width_m == goal.width_m:
                self._request, self.fault = None, ""
        elif cancelled and request and request.tries == 0:
            # A newer request ended this motion: this is no failure, and the first attempt of that request follows.
            self._enter(Phase.IDLE, now_s)
        else:
            self._fail(goal.error, now_s)

    def _fail(self, error: str, now_s: float) -> None:
        """Count a failed goal; its request is tried again or dropped."""
        self._enter(Phase.IDLE, now_s)
        self.failures += 1
        request, width_m = self._request, self._goal.width_m
        name = f"{width_m:.3f} m"
        if request is None or request.width_m != width_m:
            self.fault = f"{name}: {error}"
        elif request.tries < self._config.tries:
            self.fault = f"{name}: {error} (try {request.tries} of {self._config.tries}, trying again)"
            self._not_before_s = now_s + self._config.retry_s
        else:
            self.fault = f"{name}: {error} (given up after {request.tries} tries)"
            self._request = None

    def _enter(self, phase: Phase, now_s: float) -> None:
        self.phase, self._since_s = phase, now_s
