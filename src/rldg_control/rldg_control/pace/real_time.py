"""Real time: the newest data are used, and time-outs act. Times are monotonic [s]."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rldg_control.episode_logic import Verdict
from rldg_control.gate.logic import SILENCE_PERIODS
from rldg_control.gate.state import Answer, Cause, Decision, Execute, GateConfig, GateState, Latch, MeasuredPose, Phase
from rldg_control.observe import NO_CLOCK

HUMAN_WINDOW_S = 0.2
"""Human input keeps priority for this long after the last active message (docs/explanation/architecture.md)."""

STALE_PERIODS = 2.0
"""An observation older than this is not acted on."""

ACTION_PERIODS = 2.0
"""An observation left unanswered for so long, with no later one answered, counts as two missing actions."""

START_GRACE_S = 1.0
"""Time for the first action of an episode (a policy resets first); nothing was commanded yet, so silence is safe."""

STOP_PERIODS = 3.0
"""After a stop, the next observation is awaited for so long."""

PROGRESS_S = 2.0
"""An episode that gains no Step for so long is ended."""

REWARD_PERIODS = 2
"""A reward older than this says nothing about an observation."""


class RealTimeGate:
    """The gate executes the policy's answer on arrival, unless a person acted within the last 0.2 s."""

    needs_steps = False

    def __init__(self, config: GateConfig) -> None:
        self._operator: Answer | None = None
        self._active_s = -np.inf

    def accepts(self, state: GateState, stamp_ns: int, now_s: float, age_s: float) -> bool:
        """Refuse and count an observation that is too old by its stamp, or from the future."""
        limit_s = STALE_PERIODS * state.config.period_s
        if abs(age_s) <= limit_s:
            return True
        state.counters.stale_observations += 1
        state.unusable = (_describe_age(age_s, limit_s), now_s)
        return False

    def on_observation(self, state: GateState, observation: MeasuredPose) -> Decision:
        """Execute what is already known: input of a person, or an answer that overtook its observation."""
        config, episode, now_s = state.config, state.episode, observation.received_s
        in_episode = episode is not None and observation.stamp_ns >= episode.first_stamp_ns
        if episode is not None and in_episode:
            episode.last_observation_s = now_s
            if episode.unanswered_s is None:
                episode.unanswered_s = now_s
            else:
                state.counters.missed_actions += 1
            # A person need not wait for the policy, which may be slow or dead.
            person = self._active_person(now_s) if config.wait_for_policy else self._live_operator(state, now_s)
        elif state.phase is Phase.IDLE and config.teleop_without_episode:
            person = self._active_person(now_s)
        else:
            return None
        if episode is not None and (early := episode.early) and early.stamp_ns <= observation.stamp_ns:
            episode.early = None
            answers = in_episode and early.stamp_ns == observation.stamp_ns
            state.counters.late_actions += not answers
            person = person or (early if answers else None)
        return Execute(observation, person, episode.policy if episode else None) if person else None

    def on_policy(self, state: GateState, answer: Answer) -> Decision:
        """Execute it with the observation that it answers, if that is known and recent."""
        episode, newest = state.episode, state.newest
        if answer.fault or episode is None or not state.config.wait_for_policy:
            return None
        episode.policy = answer
        if newest is None or answer.stamp_ns > newest.stamp_ns:
            # Nothing orders two topics: a fast policy's answer may overtake the observation that it answers.
            episode.early = answer
            return None
        oldest_s = answer.received_s - STALE_PERIODS * state.config.period_s
        known = [o for o in state.observations if o.stamp_ns == answer.stamp_ns and o.received_s >= oldest_s]
        if not known or answer.stamp_ns < episode.first_stamp_ns or answer.stamp_ns <= episode.answered_ns:
            state.counters.late_actions += 1
            return None
        return Execute(known[-1], self._active_person(answer.received_s) or answer, answer)

    def on_operator(self, state: GateState, answer: Answer) -> Decision:
        """Keep the newest valid input; it is executed with the next observation or policy answer."""
        if not answer.fault:
            self._operator = answer
            if answer.active:
                self._active_s = answer.received_s
        return None

    def on_progress(self, state: GateState) -> Decision:
        """Nothing: observations and answers drive the gate."""
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
        """Only with a recent observation: an old pose would pull the arm back."""
        return state.observed_within(SILENCE_PERIODS, now_s)

    def _active_person(self, now_s: float) -> Answer | None:
        """The newest input if it was active within the last 0.2 s."""
        return self._operator if now_s - self._active_s <= HUMAN_WINDOW_S else None

    def _live_operator(self, state: GateState, now_s: float) -> Answer | None:
        """The newest input of a live device. Where teleoperation is the primary source, rest is an answer, too."""
        limit_s = SILENCE_PERIODS * state.config.period_s
        return self._operator if self._operator and now_s - self._operator.received_s <= limit_s else None


class RealTimeSteps:
    """Observations that were never answered are skipped; the newest reward that is not too old is taken."""

    skips_unanswered = True

    def __init__(self, period_s: float, exact_rewards: bool = False) -> None:
        """exact_rewards: each Reward carries the stamp of the observation that it judges (a classifier's)."""
        self.stop_grace_s, self.progress_timeout_s = STOP_PERIODS * period_s, PROGRESS_S
        self._limit_ns, self._exact = REWARD_PERIODS * round(period_s * 1e9), exact_rewards

    def accepts(self, stamp_ns: int, newest_ns: int) -> bool:
        """Accept every observation."""
        return True

    def verdict(self, rewards: Mapping[int, Verdict], stamp_ns: int, first_ns: int, has_later: bool) -> Verdict | None:
        """The newest verdict up to this stamp; an exact one is awaited until a later observation arrives."""
        if self._exact:
            return rewards.get(stamp_ns, Verdict(missing=True) if has_later else None)
        oldest_ns = max(first_ns, stamp_ns - self._limit_ns)
        fitting = [stamp for stamp in rewards if oldest_ns <= stamp <= stamp_ns]
        return rewards[max(fitting)] if fitting else Verdict(missing=True)


def _describe_age(age_s: float, limit_s: float) -> str:
    if np.isinf(age_s):
        return NO_CLOCK
    when = f"{age_s:.2f} s old" if age_s > 0 else f"{-age_s:.2f} s in the future"
    return (
        f"observations are {when} by their stamps, limit {limit_s:.2f} s (late camera stamps, or a clock that differs)"
    )


def _describe_silence(state: GateState, silent_s: float, now_s: float) -> str:
    """Distinguish observations that arrive and cannot be used from none, and add what the observer reports."""
    unusable, received_s = state.unusable
    if unusable and now_s - received_s <= SILENCE_PERIODS * state.config.period_s:
        return f"no usable observation for {silent_s:.2f} s: {unusable}"
    return f"no observation for {silent_s:.2f} s" + (f": {state.observer_fault}" if state.observer_fault else "")
