"""Lock-step: an observation is answered exactly when all its inputs have arrived; no time-out applies.

The rules are in docs/explanation/architecture.md, 'Lock-step'.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from rldg_control.episode_logic import RewardSample
from rldg_control.gate.state import Answer, Cause, Decision, Execute, GateConfig, GateState, Latch, MeasuredPose
from rldg_core.errors import UserError

STOP_GRACE_S = 2.0
"""Wall-clock time that a stopped episode waits for its next observation; a step may take long to compute."""


class LockStepGate:
    """Executes an observation when every declared source has answered it and the previous Step was published."""

    needs_steps = True

    def __init__(self, config: GateConfig) -> None:
        """Raises UserError when no source is declared."""
        if not (config.wait_for_policy or config.wait_for_operator):
            raise UserError("lock-step: one of the parameters wait_for_policy and wait_for_operator must be true")
        # These persist across episodes: the answer to the first observation may arrive before START.
        self._policy: Answer | None = None
        self._teleop: Answer | None = None

    def accepts(self, state: GateState, stamp_ns: int, now_s: float, age_s: float) -> bool:
        """Refuse an observation that the transient-local topic sent again."""
        return state.newest is None or stamp_ns > state.newest.stamp_ns

    def on_observation(self, state: GateState, observation: MeasuredPose) -> Decision:
        """Execute the observation if all answers have arrived."""
        return self.on_progress(state)

    def on_policy(self, state: GateState, answer: Answer) -> Decision:
        """Keep the answer, and execute the observation if no other is missing."""
        self._policy = answer
        return self.on_progress(state)

    def on_teleop(self, state: GateState, answer: Answer) -> Decision:
        """Keep the answer, and execute the observation if no other is missing."""
        self._teleop = answer
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
                (self._teleop, config.wait_for_operator),
            )
            if is_declared
        ]
        answers = [answer for answer in declared if answer and answer.stamp_ns == observation.stamp_ns]
        if len(answers) < len(declared):
            return None
        for answer in answers:
            # A source answers once, so a rejected answer will not be replaced, and no time-out applies.
            if answer.fault:
                return Latch(Cause.ACTION, answer.fault)
        # Teleoperation is last in the list: active, it overrides the policy; inactive and alone, it requests no motion.
        chosen = next((answer for answer in reversed(answers) if answer.active), answers[-1])
        return Execute(observation, chosen, self._policy if config.wait_for_policy else None)

    def on_time(self, state: GateState, now_s: float) -> Decision:
        """Do nothing: the simulated clock does not advance while a node computes."""
        return None

    def may_command_hold(self, state: GateState, now_s: float) -> bool:
        """Return False: between episodes, a target would advance the cell."""
        return False


class LockStepSteps:
    """Joins Steps by equal stamps. The wall clock limits only how long a stopped episode waits."""

    progress_timeout_s = inf
    skips_unanswered = False

    def __init__(self, period_s: float, exact_rewards: bool = True) -> None:
        """exact_rewards: not used; in lock-step each Reward always has the stamp of its observation."""
        self.stop_grace_s = max(STOP_GRACE_S, 3 * period_s)

    def accepts(self, stamp_ns: int, newest_ns: int) -> bool:
        """Refuse an observation that the transient-local topic sent again."""
        return stamp_ns > newest_ns

    def reward_at(
        self, rewards: Mapping[int, RewardSample], stamp_ns: int, first_ns: int, has_later: bool
    ) -> RewardSample | None:
        """Return the reward with the stamp of the observation."""
        return rewards.get(stamp_ns)
