"""Joining observations, executed actions and rewards into Steps. Without ROS: messages are passed on unread.

The contract is docs/explanation/architecture.md, 'Step semantics': Step k = observation k, the executed action that
answers it, and the reward for observation k+1. Which reward belongs to an observation, and which time-outs act, is
decided by the pace (`rldg_control.pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rldg_core.frames import offset_from
from rldg_core.task import ResetConfig
from rldg_core.types import Float64

IDLE_KEPT = 16
"""Observations kept while no episode runs: the first frame may come before the answer of the reset service."""

MISSING_REWARDS = 20
"""Number of consecutive observations without a reward after which the episode ends with a stack fault."""

OPERATOR_STOP, STACK_FAULT = "operator_stop", "stack_fault"
"""Values of EpisodeEvent.reason for ends that are not a result of the policy: a stop (by a person, a cancel or a latch
of the gate), and a part of the stack that does not work."""

START_XY_M, START_Z_M, START_RAD = 0.02, 0.02, 0.1
"""Tolerance around the task's start region when a person resets the scene."""


@dataclass(frozen=True)
class EpisodeStart:
    """The first observation of the episode has arrived: publish START."""

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
    """How the episode ended: publish END. reason: see EpisodeEvent.msg; detail: one line that explains it."""

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
        return self.reason not in (OPERATOR_STOP, STACK_FAULT)


Event = EpisodeStart | StepRecord | Outcome


@dataclass(frozen=True)
class RewardSample:
    """Content of a Reward message. missing: no reward arrived for the observation."""

    success: bool = False
    failure: bool = False
    missing: bool = False


class StepPace(Protocol):
    """How observations, rewards and time-outs are handled. Times are monotonic [s]."""

    stop_grace_s: float
    """Time that a stopped episode waits for its next observation before it ends without it."""
    progress_timeout_s: float
    """An episode without a new Step for this long is ended: observer, policy or gate does not run."""
    skips_unanswered: bool
    """Whether observations that no action answered are left out of the Steps."""

    def accepts(self, stamp_ns: int, newest_ns: int) -> bool:
        """Return whether an observation is used; newest_ns: stamp of the previous one."""

    def reward_at(
        self, rewards: Mapping[int, RewardSample], stamp_ns: int, first_ns: int, has_later: bool
    ) -> RewardSample | None:
        """Return the reward for the observation with this stamp, or None while it is awaited.

        first_ns: stamp of the episode's first observation; has_later: a later observation has arrived.
        """


@dataclass
class _Episode:
    """State of one episode, created by `begin` and dropped at its end."""

    first_ns: int
    running: bool = False
    index: int = 0
    label: bool | None = None
    hold_ns: int | None = None
    stop_reason: str = OPERATOR_STOP
    stop_detail: str = ""
    stop_s: float | None = None
    progress_s: float = 0.0
    missing_in_a_row: int = 0
    actions: dict[int, Any] = field(default_factory=dict)

    def request_stop(self, detail: str, now_s: float, reason: str = OPERATOR_STOP) -> None:
        """Keep the first request to stop."""
        if self.stop_s is None:
            self.stop_reason, self.stop_detail, self.stop_s = reason, detail, now_s


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

    def __init__(self, max_steps: int, rewarded: bool, pace: StepPace) -> None:
        """rewarded: success comes from Reward messages; otherwise from `label` alone."""
        self._max_steps, self._rewarded, self._pace = max_steps, rewarded, pace
        self.step_count = 0
        self.skipped_observations = 0
        self.missing_rewards = 0
        self._observations: deque[tuple[int, Any]] = deque()
        self._rewards: dict[int, RewardSample] = {}
        self._newest_ns = -1
        self._observed_s = self._executed_s = 0.0
        self._episode: _Episode | None = None

    @property
    def running(self) -> bool:
        """Whether START was announced and END was not."""
        return self._episode is not None and self._episode.running

    def newest_observation(self) -> Any | None:
        """The newest observation message, or None."""
        return self._observations[-1][1] if self._observations else None

    def begin(self, not_before_ns: int, now_s: float) -> list[Event]:
        """Start the next episode at the first observation of this stamp or later."""
        self._episode = _Episode(not_before_ns)
        return self._advance(self._episode, now_s)

    def abandon(self) -> None:
        """Drop an episode that never started."""
        if not self.running:
            self._episode = None

    def on_observation(self, stamp_ns: int, message: Any, now_s: float) -> list[Event]:
        """Take an observation."""
        if not self._pace.accepts(stamp_ns, self._newest_ns):
            return []
        self._newest_ns, self._observed_s = stamp_ns, now_s
        self._observations.append((stamp_ns, message))
        if self._episode:
            return self._advance(self._episode, now_s)
        while len(self._observations) > IDLE_KEPT:
            self._observations.popleft()
        return []

    def on_executed(self, observation_stamp_ns: int, message: Any, latched: bool, now_s: float) -> list[Event]:
        """Take an executed action; if the gate latched, the episode ends as truncated."""
        episode = self._episode
        if episode is None or not episode.running or observation_stamp_ns < episode.first_ns:
            return []
        episode.actions.setdefault(observation_stamp_ns, message)
        self._executed_s = now_s
        if latched:
            episode.hold_ns = observation_stamp_ns
            episode.request_stop("the gate latched", now_s)
        return self._advance(episode, now_s)

    def on_reward(self, stamp_ns: int, reward: RewardSample, now_s: float) -> list[Event]:
        """Take a reward for the observation (lock-step) or the time (real time) with this stamp."""
        if not self._rewarded:
            return []
        self._rewards[stamp_ns] = reward
        while len(self._rewards) > IDLE_KEPT:
            del self._rewards[next(iter(self._rewards))]
        return self._advance(self._episode, now_s) if self._episode else []

    def label(self, success: bool) -> bool:
        """Label the episode, which ends as terminated at the next observation; return False when none is running."""
        if self._episode and self._episode.running:
            self._episode.label = success
            return True
        return False

    def stop(self, detail: str, now_s: float) -> None:
        """End the episode as truncated at the next observation."""
        if self._episode and self._episode.running:
            self._episode.request_stop(detail, now_s)

    def close(self, detail: str, now_s: float) -> list[Event]:
        """End the episode as truncated now (the node shuts down), so that a recorder can close its bag."""
        if not self._episode or not self._episode.running:
            return []
        self._episode.request_stop(detail, now_s)
        return self._close(self._episode)

    def on_time(self, now_s: float) -> list[Event]:
        """End an episode that was stopped or makes no progress; call this a few times per second."""
        episode, pace = self._episode, self._pace
        if episode is None or not episode.running:
            return []
        if episode.stop_s is not None and now_s - episode.stop_s > pace.stop_grace_s:
            return self._close(episode)
        if now_s - episode.progress_s > pace.progress_timeout_s:
            episode.request_stop(self._describe_standstill(episode, now_s), now_s, STACK_FAULT)
            return self._close(episode)
        return []

    # --- the join -----------------------------------------------------------------------------------

    def _describe_standstill(self, episode: _Episode, now_s: float) -> str:
        """Name the part of the stack that sends nothing."""
        limit_s = self._pace.progress_timeout_s
        if now_s - self._observed_s > limit_s:
            return f"no observation for {now_s - self._observed_s:.1f} s: does the observer run?"
        if self._executed_s < episode.progress_s or now_s - self._executed_s > limit_s:
            return f"no executed action for {limit_s:.0f} s: does the gate run?"
        return f"no observation was answered for {limit_s:.0f} s"

    def _advance(self, episode: _Episode, now_s: float) -> list[Event]:
        events: list[Event] = []
        if not episode.running:
            while self._observations and self._observations[0][0] < episode.first_ns:
                self._observations.popleft()
            if not self._observations:
                return events
            episode.first_ns = self._observations[0][0]
            episode.running, episode.progress_s = True, now_s
            events.append(EpisodeStart(episode.first_ns, self.step_count))
        while self.running and (joined := self._join(episode)):
            events += joined
            episode.progress_s = now_s
        if self.running and episode.hold_ns is not None and self._observations[0][0] > episode.hold_ns:
            # A latched gate sends nothing, so this observation will not be answered.
            events += self._close(episode)
        return events

    def _join(self, episode: _Episode) -> list[Event]:
        """Return the next Step if it is complete, and the end that it causes."""
        observations, actions = self._observations, episode.actions
        if self._pace.skips_unanswered:
            while len(observations) > 1 and observations[0][0] not in actions and self._answered_later(episode):
                observations.popleft()
                self.skipped_observations += 1
        if len(observations) < 2 or observations[0][0] not in actions:
            return []
        reward = self._next_reward(episode, observations[1][0])
        if reward is None:
            return []
        stamp_ns, observation = observations.popleft()
        action = actions.pop(stamp_ns)
        success, terminated, truncated, reason = self._judge(episode, reward)
        record = StepRecord(
            episode.index,
            self.step_count,
            observation,
            action,
            float(success),
            terminated,
            truncated,
            success,
            is_last=False,
        )
        episode.index += 1
        self.step_count += 1
        return [record, *(self._end(episode, success, terminated, truncated, reason) if reason else [])]

    def _answered_later(self, episode: _Episode) -> bool:
        return any(stamp_ns in episode.actions for stamp_ns, _ in self._observations)

    def _next_reward(self, episode: _Episode, stamp_ns: int) -> RewardSample | None:
        """Return the reward for the second kept observation, or None while it is awaited."""
        if not self._rewarded:
            return RewardSample()
        reward = self._pace.reward_at(self._rewards, stamp_ns, episode.first_ns, len(self._observations) > 2)
        if reward is not None:
            self.missing_rewards += reward.missing
            episode.missing_in_a_row = episode.missing_in_a_row + 1 if reward.missing else 0
        return reward

    def _judge(self, episode: _Episode, reward: RewardSample) -> tuple[bool, bool, bool, str]:
        """Return (success, terminated, truncated, reason), "" while the episode continues. A label takes precedence."""
        if episode.label is not None:
            return episode.label, True, False, "label"
        if reward.success:
            return True, True, False, "success"
        if reward.failure:
            return False, True, False, "failure"
        if episode.stop_s is not None:
            return False, False, True, episode.stop_reason
        at_limit = episode.index + 1 >= self._max_steps
        if episode.missing_in_a_row >= (min(MISSING_REWARDS, self._max_steps) if at_limit else MISSING_REWARDS):
            episode.stop_reason = STACK_FAULT
            episode.stop_detail = f"no reward for {episode.missing_in_a_row} observations: does its source run?"
            return False, False, True, STACK_FAULT
        if at_limit:
            return False, False, True, "time_limit"
        return False, False, False, ""

    def _close(self, episode: _Episode) -> list[Event]:
        """End after the last published Step, with the pending observation as the final one."""
        return self._end(episode, False, False, True, episode.stop_reason)

    def _end(self, episode: _Episode, success: bool, terminated: bool, truncated: bool, reason: str) -> list[Event]:
        events: list[Event] = []
        if episode.index:
            observation = self._observations[0][1]
            events.append(
                StepRecord(
                    episode.index,
                    self.step_count,
                    observation,
                    None,
                    0.0,
                    terminated,
                    truncated,
                    success,
                    is_last=True,
                )
            )
        detail = episode.stop_detail if reason in (OPERATOR_STOP, STACK_FAULT) else ""
        events.append(Outcome(episode.index, self.step_count, success, terminated, truncated, reason, detail))
        self._episode = None
        return events
