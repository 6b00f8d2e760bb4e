"""Joining observations, executed actions and rewards into Steps. Free of ROS; messages pass through unopened.

The contract is docs/explanation/architecture.md, 'Step semantics': Step k = observation k, the executed action that
answers it, and the verdict on observation k+1. Lock-step joins by equal stamps and waits; real time takes
the newest reward that is not newer than the observation (a classifier's: that of the observation itself, awaited
until the next one comes) and skips observations that were never answered.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from rldg_core.frames import offset_from
from rldg_core.task import ResetConfig
from rldg_core.types import Float64

REWARD_PERIODS = 2
"""Real time: a reward older than this says nothing about an observation."""

IDLE_KEPT = 16
"""Observations kept while no episode runs: the first frame may come before the answer of the reset service."""

STOP_PERIODS = 3.0
"""After a stop, the next observation is awaited for so long; then the episode ends with what there is."""

PROGRESS_S = 2.0
"""Real time: an episode that gains no Step for so long is ended (observer, policy or gate is gone)."""

MISSING_REWARDS = 20
"""Real time: so many observations in a row without a reward, and the reward's source is taken for dead."""

PERSON, STACK = "operator_stop", "stack_fault"
"""Reasons of an end that says nothing about the policy: a stop (person, cancel, latch of the gate), a part of the
stack that does not work."""

START_XY_M, START_Z_M, START_RAD = 0.02, 0.02, 0.1
"""How far outside the region of starts a person may leave the arm (operator resets)."""


@dataclass(frozen=True)
class Started:
    """The episode's first observation is here: announce START."""

    first_observation_stamp_ns: int
    step_count: int


@dataclass(frozen=True)
class StepRecord:
    """Fields of one Step; `observation` and `action` are the received messages, action None on the last one."""

    index: int
    step_count: int
    observation: Any
    action: Any | None
    reward: float
    terminated: bool
    truncated: bool
    success: bool
    is_last: bool


@dataclass(frozen=True)
class Outcome:
    """How the episode ended: announce END. reason: see EpisodeEvent.msg; detail: one line for people."""

    steps: int
    step_count: int
    success: bool
    terminated: bool
    truncated: bool
    reason: str
    detail: str

    @property
    def is_result(self) -> bool:
        """True if the episode counts for the policy: the task, a label or the time limit ended it."""
        return self.reason not in (PERSON, STACK)


Event = Started | StepRecord | Outcome


@dataclass(frozen=True)
class Verdict:
    """What a Reward message says about its stamp."""

    success: bool = False
    failure: bool = False


def start_fault(pose_base_tcp: Float64, reset: ResetConfig) -> str:
    """One line that says why the arm is not at a start pose, or "" when it is."""
    offset = abs(offset_from(reset.pose_base_tcp, pose_base_tcp))
    xy_m, z_m, rad = float(max(offset[:2])), float(offset[2]), float(max(offset[3:]))
    if xy_m > reset.xy_m + START_XY_M:
        return f"tcp is {xy_m:.3f} m from the start pose in x or y, allowed {reset.xy_m + START_XY_M:.3f} m"
    if z_m > reset.z_m + START_Z_M:
        return f"tcp is {z_m:.3f} m from the start pose in z, allowed {reset.z_m + START_Z_M:.3f} m"
    if rad > reset.yaw_rad + START_RAD:
        return f"tcp is turned {rad:.2f} rad from the start pose, allowed {reset.yaw_rad + START_RAD:.2f} rad"
    return ""


class EpisodeLogic:
    """One episode at a time: `begin`, then feed messages; every method returns what to publish, in order."""

    def __init__(self, max_steps: int, period_s: float, lockstep: bool, rewarded: bool, exact: bool = False) -> None:
        """rewarded: success comes from Reward messages; otherwise from `label` alone.

        exact: each Reward carries the stamp of the observation that it judges (a classifier's).
        """
        self._max_steps, self._period_s = max_steps, period_s
        self._period_ns = round(period_s * 1e9)
        self._lockstep, self._rewarded, self._exact = lockstep, rewarded, exact
        self.step_count = 0
        self.skipped_observations = 0
        self.missing_rewards = 0
        self._observations: deque[tuple[int, Any]] = deque()
        self._actions: dict[int, Any] = {}
        self._rewards: dict[int, Verdict] = {}
        self._begun = self._running = False
        self._first_ns = 0
        self._newest_ns = -1
        self._index = 0
        self._label: bool | None = None
        self._hold_ns: int | None = None
        self._stop_reason = PERSON
        self._stop_detail = ""
        self._stop_s: float | None = None
        self._progress_s = self._observed_s = self._executed_s = 0.0
        self._missing_in_a_row = 0

    @property
    def running(self) -> bool:
        """Whether START was announced and END was not."""
        return self._running

    def newest_observation(self) -> Any | None:
        """The newest observation message, or None."""
        return self._observations[-1][1] if self._observations else None

    def begin(self, not_before_ns: int, now_s: float) -> list[Event]:
        """Start the next episode at the first observation of this stamp or later."""
        self._begun, self._running = True, False
        self._first_ns = not_before_ns
        self._index, self._label, self._hold_ns = 0, None, None
        self._stop_reason, self._stop_detail, self._stop_s = PERSON, "", None
        self._missing_in_a_row = 0
        self._actions.clear()
        return self._advance(now_s)

    def abandon(self) -> None:
        """Give up an episode that never started."""
        self._begun = False

    def on_observation(self, stamp_ns: int, message: Any, now_s: float) -> list[Event]:
        """An observation. In lock-step one that was received before (a latched topic sent it again) is ignored."""
        if self._lockstep and stamp_ns <= self._newest_ns:
            return []
        self._newest_ns, self._observed_s = stamp_ns, now_s
        self._observations.append((stamp_ns, message))
        if not self._begun:
            while len(self._observations) > IDLE_KEPT:
                self._observations.popleft()
            return []
        return self._advance(now_s)

    def on_executed(self, observation_stamp_ns: int, message: Any, latched: bool, now_s: float) -> list[Event]:
        """What the gate did; when it latched, the episode ends as truncated."""
        if not self._running or observation_stamp_ns < self._first_ns:
            return []
        self._actions.setdefault(observation_stamp_ns, message)
        self._executed_s = now_s
        if latched:
            self._hold_ns = observation_stamp_ns
            self._request_stop("the gate latched", now_s)
        return self._advance(now_s)

    def on_reward(self, stamp_ns: int, verdict: Verdict, now_s: float) -> list[Event]:
        """A verdict on the observation (lock-step) or the time (real time) of that stamp."""
        if not self._rewarded:
            return []
        self._rewards[stamp_ns] = verdict
        while len(self._rewards) > IDLE_KEPT:
            del self._rewards[next(iter(self._rewards))]
        return self._advance(now_s)

    def label(self, success: bool) -> bool:
        """A person's verdict: terminates the episode at the next observation. False when none is running."""
        if self._running:
            self._label = success
        return self._running

    def stop(self, detail: str, now_s: float) -> None:
        """End as truncated at the next observation (cancel)."""
        if self._running:
            self._request_stop(detail, now_s)

    def close(self, detail: str, now_s: float) -> list[Event]:
        """End as truncated at once (the node is going down), so that a recorder can close its bag."""
        if not self._running:
            return []
        self._request_stop(detail, now_s)
        return self._close()

    def on_time(self, now_s: float) -> list[Event]:
        """Call a few times per second. Ends an episode that was stopped, or (real time) that makes no progress."""
        if not self._running:
            return []
        # In lock-step only a stop by a person may be cut short by the wall clock: nothing else depends on it.
        stop_after_s = max(STOP_PERIODS * self._period_s, PROGRESS_S if self._lockstep else 0.0)
        if self._stop_s is not None and now_s - self._stop_s > stop_after_s:
            return self._close()
        if not self._lockstep and now_s - self._progress_s > PROGRESS_S:
            self._request_stop(self._standstill(now_s), now_s, STACK)
            return self._close()
        return []

    # --- the join -----------------------------------------------------------------------------------

    def _request_stop(self, detail: str, now_s: float, reason: str = PERSON) -> None:
        if self._stop_s is None:
            self._stop_reason, self._stop_detail, self._stop_s = reason, detail, now_s

    def _standstill(self, now_s: float) -> str:
        """Say which part of the stack is silent."""
        if now_s - self._observed_s > PROGRESS_S:
            return f"no observation for {now_s - self._observed_s:.1f} s: does the observer run?"
        if self._executed_s < self._progress_s or now_s - self._executed_s > PROGRESS_S:
            return f"no executed action for {PROGRESS_S:.0f} s: does the gate run?"
        return f"no observation was answered for {PROGRESS_S:.0f} s"

    def _advance(self, now_s: float) -> list[Event]:
        events: list[Event] = []
        if not self._begun:
            return events
        if not self._running:
            while self._observations and self._observations[0][0] < self._first_ns:
                self._observations.popleft()
            if not self._observations:
                return events
            self._first_ns = self._observations[0][0]
            self._running, self._progress_s = True, now_s
            events.append(Started(self._first_ns, self.step_count))
        while self._running and (joined := self._join()):
            events += joined
            self._progress_s = now_s
        if self._running and self._hold_ns is not None and self._observations[0][0] > self._hold_ns:
            # The gate is silent after its hold: this observation will never be answered.
            events += self._close()
        return events

    def _join(self) -> list[Event]:
        """Publish the next transition, if it is complete."""
        observations = self._observations
        if not self._lockstep:
            while len(observations) > 1 and observations[0][0] not in self._actions and self._answered_later():
                observations.popleft()
                self.skipped_observations += 1
        if len(observations) < 2 or observations[0][0] not in self._actions:
            return []
        verdict = self._verdict(observations[1][0])
        if verdict is None:
            return []
        stamp_ns, observation = observations.popleft()
        action = self._actions.pop(stamp_ns)
        success, terminated, truncated, reason = self._judge(verdict)
        record = StepRecord(
            self._index,
            self.step_count,
            observation,
            action,
            float(success),
            terminated,
            truncated,
            success,
            is_last=False,
        )
        self._index += 1
        self.step_count += 1
        return [record, *(self._end(success, terminated, truncated, reason) if reason else [])]

    def _answered_later(self) -> bool:
        return any(stamp_ns in self._actions for stamp_ns, _ in self._observations)

    def _verdict(self, stamp_ns: int) -> Verdict | None:
        """Verdict on an observation (always the second one kept); None: it is still to come."""
        if not self._rewarded:
            return Verdict()
        if self._lockstep or (self._exact and (stamp_ns in self._rewards or len(self._observations) < 3)):
            verdict = self._rewards.get(stamp_ns)
            if verdict is not None:
                self._missing_in_a_row = 0
            return verdict
        oldest_ns = max(self._first_ns, stamp_ns - REWARD_PERIODS * self._period_ns)
        fitting = [] if self._exact else [s for s in self._rewards if oldest_ns <= s <= stamp_ns]
        if not fitting:
            self.missing_rewards += 1
            self._missing_in_a_row += 1
            return Verdict()
        self._missing_in_a_row = 0
        return self._rewards[max(fitting)]

    def _judge(self, verdict: Verdict) -> tuple[bool, bool, bool, str]:
        """(success, terminated, truncated, reason); "" while the episode goes on. Ends of the task come first."""
        if self._label is not None:
            return self._label, True, False, "label"
        if verdict.success:
            return True, True, False, "success"
        if verdict.failure:
            return False, True, False, "failure"
        if self._stop_s is not None:
            return False, False, True, self._stop_reason
        at_limit = self._index + 1 >= self._max_steps
        if self._missing_in_a_row >= (min(MISSING_REWARDS, self._max_steps) if at_limit else MISSING_REWARDS):
            self._stop_reason = STACK
            self._stop_detail = f"no reward for {self._missing_in_a_row} observations: does its source run?"
            return False, False, True, STACK
        if at_limit:
            return False, False, True, "time_limit"
        return False, False, False, ""

    def _close(self) -> list[Event]:
        """End after the last published Step: the pending observation is the final one."""
        return self._end(False, False, True, self._stop_reason)

    def _end(self, success: bool, terminated: bool, truncated: bool, reason: str) -> list[Event]:
        events: list[Event] = []
        if self._index:
            observation = self._observations[0][1]
            events.append(
                StepRecord(
                    self._index, self.step_count, observation, None, 0.0, terminated, truncated, success, is_last=True
                )
            )
        detail = self._stop_detail if reason in (PERSON, STACK) else ""
        events.append(Outcome(self._index, self.step_count, success, terminated, truncated, reason, detail))
        self._begun = self._running = False
        self._actions.clear()
        return events
