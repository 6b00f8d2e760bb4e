"""Lock-step: an observation is answered exactly when everything that is due has arrived; no time-out acts.

The rules are in docs/explanation/architecture.md, 'Lock-step'.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from rldg_control.episode_logic import Verdict
from rldg_control.gate.state import Answer, Cause, Decision, Execute, GateConfig, GateState, Latch, MeasuredPose
from rldg_core.errors import UserError

STOP_GRACE_S = 2.0
"""Wall-clock time that a stopped episode has for its next observation: a step may take long to compute."""


class LockStepGate:
    """The gate executes an observation when every declared source answered it and the previous Step is out."""

    needs_steps = True

    def __init__(self, config: GateConfig) -> None:
        """Raises UserError when no source is declared."""
        if not (config.wait_for_policy or config.wait_for_operator):
            raise UserError("lock-step: one of the parameters wait_for_policy and wait_for_operator must be true")
        # Not part of the episode: the answer to its first observation may arrive before its START.
        self._policy: Answer | None = None
        self._operator: Answer | None = None

    def accepts(self, state: GateState, stamp_ns: int, now_s: float, age_s: float) -> bool:
        """Refuse an observation that a latched topic sent again."""
        return state.newest is None or stamp_ns > state.newest.stamp_ns

    def on_observation(self, state: GateState, observation: MeasuredPose) -> Decision:
        """Execute it if all answers are already here."""
        return self.on_progress(state)

    def on_policy(self, state: GateState, answer: Answer) -> Decision:
        """Keep the answer and execute if it was the last one missing."""
        self._policy = answer
        return self.on_progress(state)

    def on_operator(self, state: GateState, answer: Answer) -> Decision:
        """Keep the answer and execute if it was the last one missing."""
        self._operator = answer
        return self.on_progress(state)

    def on_progress(self, state: GateState) -> Decision:
        """Execute the newest observation if everything it waits for has arrived."""
        episode, observation = state.episode, state.newest
        if episode is None or observation is None:
            return None
        if observation.stamp_ns < episode.first_stamp_ns or observation.stamp_ns == episode.answered_ns:
            return None
        if episode.last_step < episode.executed - 1:
            return None
        config = state.config
        declared = [
            answer
            for answer, is_declared in (
                (self._policy, config.wait_for_policy),
                (self._operator, config.wait_for_operator),
            )
            if is_declared
        ]
        answers = [answer for answer in declared if answer and answer.stamp_ns == observation.stamp_ns]
        if len(answers) < len(declared):
            return None
        for answer in answers:
            # A source answers once, so a rejected answer is a missing one, and no time-out would act on it.
            if answer.fault:
                return Latch(Cause.ACTION, answer.fault)
        # The operator is last: if active it overrides; inactive and alone it requests no motion.
        chosen = next((answer for answer in reversed(answers) if answer.active), answers[-1])
        return Execute(observation, chosen, self._policy if config.wait_for_policy else None)

    def on_time(self, state: GateState, now_s: float) -> Decision:
        """Nothing: the simulated clock stands still while a node computes."""
        return None

    def may_command_hold(self, state: GateState, now_s: float) -> bool:
        """No: between episodes the clock stands still, and a target would advance the cell."""
        return False


class LockStepSteps:
    """Steps are joined by equal stamps. Only a stop by a person may be cut short by the wall clock."""

    progress_timeout_s = inf
    skips_unanswered = False

    def __init__(self, period_s: float, exact_rewards: bool = True) -> None:
        """Rewards are always exact here: each carries the stamp of the observation that it judges."""
        self.stop_grace_s = max(STOP_GRACE_S, 3 * period_s)

    def accepts(self, stamp_ns: int, newest_ns: int) -> bool:
        """Refuse an observation that a latched topic sent again."""
        return stamp_ns > newest_ns

    def verdict(self, rewards: Mapping[int, Verdict], stamp_ns: int, first_ns: int, has_later: bool) -> Verdict | None:
        """The verdict with the stamp of the observation."""
        return rewards.get(stamp_ns)
