"""Real time: the newest data is used, and time-outs apply. Times are monotonic [s]."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rldg_control.episode_logic import RewardSample
from rldg_control.gate.logic import SILENCE_PERIODS
from rldg_control.gate.state import Answer, Cause, Decision, Execute, GateConfig, GateState, Latch, MeasuredPose, Phase
from rldg_control.observe import NO_CLOCK

HUMAN_WINDOW_S = 0.2
"""Human input keeps priority for this long after the last active message (docs/explanation/architecture.md)."""

STALE_PERIODS = 2.0
"""Maximum age of an observation that is answered, in control periods."""

ACTION_PERIODS = 2.0
"""Control periods without an executed action after which the gate latches."""

START_GRACE_S = 1.0
"""Time for the first action of an episode, while the policy resets; nothing has been commanded yet."""

STOP_PERIODS = 3.0
"""Control periods that a stopped episode waits for its next observation."""

PROGRESS_S = 2.0
"""An episode without a new Step for this long is ended."""

REWARD_PERIODS = 2
"""Maximum age of a reward at its observation, in control periods."""


class RealTimeGate:
    """Executes the policy's answer on arrival, unless teleoperation was active within the last 0.2 s."""

    needs_steps = False

    def __init__(self, config: GateConfig) -> None:
        self._teleop: Answer | None = None
        self._active_s = -np.inf

    def accepts(self, state: GateState, stamp_ns: int, now_s: float, age_s: float) -> bool:
        """Refuse and count an observation whose stamp is too old or in the future."""
        limit_s = STALE_PERIODS * state.config.period_s
        if abs(age_s) <= limit_s:
            return True
        state.counters.stale_observations += 1
        state.unusable = (_describe_age(age_s, limit_s), now_s)
        return False

    def on_observation(self, state: GateState, observation: MeasuredPose) -> Decision:
        """Execute active teleoperation, or a policy answer that arrived before its observation."""
        config, episode, now_s = state.config, state.episode, observation.received_s
        in_episode = episode is not None and observation.stamp_ns >= episode.first_stamp_ns
        if episode is not None and in_episode:
            episode.last_observation_s = now_s
            if episode.unanswered_s is None:
                episode.unanswered_s = now_s
            else:
                state.counters.missed_actions += 1
            # Teleoperation does not wait for the policy, which may be slow or may not run.
            chosen = self._active_teleop(now_s) if config.wait_for_policy else self._recent_teleop(state, now_s)
        elif state.phase is Phase.IDLE and config.teleop_without_episode:
            chosen = self._active_teleop(now_s)
        else:
            return None
        if episode is not None and (early := episode.early) and early.stamp_ns <= observation.stamp_ns:
            episode.early = None
            answers = in_episode and early.stamp_ns == observation.stamp_ns
            state.counters.late_actions += not answers
            chosen = chosen or (early if answers else None)
        return Execute(observation, chosen, episode.policy if episode else None) if chosen else None

    def on_policy(self, state: GateState, answer: Answer) -> Decision:
        """Execute the answer with its observation, if that is known and recent."""
        episode, newest = state.episode, state.newest
        if answer.fault or episode is None or not state.config.wait_for_policy:
            return None
        episode.policy = answer
        if newest is None or answer.stamp_ns > newest.stamp_ns:
            # Topics are not ordered: a fast policy's answer may arrive before the observation that it answers.
            episode.early = answer
            return None
        oldest_s = answer.received_s - STALE_PERIODS * state.config.period_s
        known = [o for o in state.observations if o.stamp_ns == answer.stamp_ns and o.received_s >= oldest_s]
        if not known or answer.stamp_ns < episode.first_stamp_ns or answer.stamp_ns <= episode.answered_ns:
            state.counters.late_actions += 1
            return None
        return Execute(known[-1], self._active_teleop(answer.received_s) or answer, answer)

    def on_teleop(self, state: GateState, answer: Answer) -> Decision:
        """Keep the newest valid input; it is executed with the next observation or policy answer."""
        if not answer.fault:
            self._teleop = answer
            if answer.active:
                self._active_s = answer.received_s
        return None

    def on_progress(self, state: GateState) -> Decision:
        """Do nothing: observations and answers drive the gate."""
        return None

    def on_time(self, state: GateState, now_s: float) -> Decision:
        """Latch when observations or actions of a running episode fail to arrive."""
        episode, period_s = state.episode, state.config.period_s
        if episode is None or now_s - episode.started_s < START_GRACE_S:
            return None
        silent_s = now_s - episode.last_observation_s
        if silent_s > SILENCE_PERIODS * period_s:
            return Latch(Cause.OBSERVATION, _describe_silence(state, silent_s, now_s))
        if episode.unanswered_s is not None and now_s - episode.unanswered_s > ACTION_PERIODS * period_s:
            who = "policy" if state.config.wait_for_policy else "teleoperation"
            return Latch(Cause.ACTION, f"no action from {who} for {now_s - episode.unanswered_s:.2f} s")
        return None

    def may_command_hold(self, state: GateState, now_s: float) -> bool:
        """Return whether an observation is recent: an old pose would pull the arm back."""
        return state.observed_within(SILENCE_PERIODS, now_s)

    def _active_teleop(self, now_s: float) -> Answer | None:
        """Return the newest teleoperation input if one was active within the last 0.2 s."""
        return self._teleop if now_s - self._active_s <= HUMAN_WINDOW_S else None

    def _recent_teleop(self, state: GateState, now_s: float) -> Answer | None:
        """Return the newest recent teleoperation input; as the primary source, an inactive device answers, too."""
        limit_s = SILENCE_PERIODS * state.config.period_s
        return self._teleop if self._teleop and now_s - self._teleop.received_s <= limit_s else None


class RealTimeSteps:
    """Skips observations that no action answered and takes the newest reward that is not too old."""

    skips_unanswered = True

    def __init__(self, period_s: float, exact_rewards: bool = False) -> None:
        """exact_rewards: each Reward has the stamp of its observation (reward classifier)."""
        self.stop_grace_s, self.progress_timeout_s = STOP_PERIODS * period_s, PROGRESS_S
        self._limit_ns, self._exact = REWARD_PERIODS * round(period_s * 1e9), exact_rewards

    def accepts(self, stamp_ns: int, newest_ns: int) -> bool:
        """Accept every observation."""
        return True

    def reward_at(
        self, rewards: Mapping[int, RewardSample], stamp_ns: int, first_ns: int, has_later: bool
    ) -> RewardSample | None:
        """Return the newest reward up to this stamp; an exact one is awaited until a later observation arrives."""
        if self._exact:
            return rewards.get(stamp_ns, RewardSample(missing=True) if has_later else None)
        oldest_ns = max(first_ns, stamp_ns - self._limit_ns)
        fitting = [stamp for stamp in rewards if oldest_ns <= stamp <= stamp_ns]
        return rewards[max(fitting)] if fitting else RewardSample(missing=True)


def _describe_age(age_s: float, limit_s: float) -> str:
    if np.isinf(age_s):
        return NO_CLOCK
    when = f"{age_s:.2f} s old" if age_s > 0 else f"{-age_s:.2f} s in the future"
    return (
        f"observations are {when} by their stamps, limit {limit_s:.2f} s (late camera stamps, or a clock that differs)"
    )


def _describe_silence(state: GateState, silent_s: float, now_s: float) -> str:
    """Distinguish unusable observations from missing ones, and add the fault that the observer reports."""
    unusable, received_s = state.unusable
    if unusable and now_s - received_s <= SILENCE_PERIODS * state.config.period_s:
        return f"no usable observation for {silent_s:.2f} s: {unusable}"
    return f"no observation for {silent_s:.2f} s" + (f": {state.observer_fault}" if state.observer_fault else "")
