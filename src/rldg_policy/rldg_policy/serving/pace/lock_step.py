"""Lock-step: an observation is answered exactly once, however late, and no duration counts.

The answer to observation k > 0 is held until Step k-1 says that the episode continues: otherwise the first observation
of the next episode, if it arrives before END, would be answered as part of the previous episode. The rules are in
docs/explanation/architecture.md, 'Lock-step' 3, 4 and 7.
"""

from __future__ import annotations

from rldg_core.policy import PolicySpec
from rldg_policy.serving.latency import Durations
from rldg_policy.serving.records import Action, Episode, Received, Settings
from rldg_policy.serving.state import ServerState
from rldg_policy.serving.store import Loaded
from rldg_policy.serving.weights import Weights


class LockStepServing:
    """Answers as soon as a policy is active, the weights that are due have arrived and the episode continues."""

    threaded = False
    needs_steps = True
    pending = False

    def __init__(self, settings: Settings) -> None:
        self._live_weights = settings.live_weights
        self._index = 0
        self._last_step: tuple[int, bool] | None = None
        self._held: tuple[Action, Received] | None = None

    def lead_ticks(self, inferences: Durations) -> int:
        """Return 0: the clock does not advance during an inference."""
        return 0

    def slowness(self, spec: PolicySpec, inferences: Durations) -> str:
        """Return "": no policy is too slow."""
        return ""

    def on_start(self) -> None:
        """Begin to count the observations of the episode."""
        self._index, self._held = 0, None

    def on_end(self) -> None:
        """Do nothing."""

    def on_step(self, stamp_ns: int, continues: bool) -> None:
        """Keep the newest Step, which may release the next answer."""
        self._last_step = (stamp_ns, continues)

    def on_swap(self, state: ServerState) -> None:
        """Let the new policy answer the observation whose answer was not released."""
        if self._held:
            state.waiting.appendleft(self._held[1])
            self._held, self._index = None, self._index - 1
            state.counts.ticks -= 1

    def next_action(self, state: ServerState, now_ns: int, now_s: float) -> Action | None:
        """Compute the next answer, and return it when it may be sent."""
        if self._held is None:
            self._held = self._compute(state)
        if state.episode is None or self._held is None or not self._released(state):
            return None
        (action, _), self._held = self._held, None
        state.taken_ns = action.stamp_ns
        return action

    def _released(self, state: ServerState) -> bool:
        """Return whether the answer may be sent: it is the first of the episode, or Step k-1 continues."""
        return state.taken_ns is None or self._last_step == (state.taken_ns, True)

    def _compute(self, state: ServerState) -> tuple[Action, Received] | None:
        while state.episode is not None and state.waiting:
            received = state.waiting[0]
            stamp_ns = received.observation.stamp_ns
            if not state.is_due(stamp_ns, state.episode):
                state.waiting.popleft()
                continue
            if not self._ready(state, state.episode):
                return None
            state.waiting.popleft()
            state.counts.ticks += 1
            self._index += 1
            state.scheduler.observe(received.observation)
            if (chunk := state.scheduler.action_at(stamp_ns)) is not None:
                return state.action(received, chunk), received
            state.miss(state.scheduler.fault, ticks=0)
        return None

    def _ready(self, state: ServerState, episode: Episode) -> bool:
        """Return whether a policy is active and, if it trains live, has the weights version that is due."""
        active = state.store.active
        if active is None:
            return False
        if not (self._live_weights and active.trainable):
            return True
        due = state.weights.due(episode.step_count + self._index)
        return due is not None and state.apply(due, lambda weights: _update(active, weights))


def _update(active: Loaded, weights: Weights) -> None:
    assert active.trainable
    active.trainable.update_weights(weights.data, weights.version)
