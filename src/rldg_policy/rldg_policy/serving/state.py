"""State that a policy server shares with the rules of its pace: the episode, observations, policies and counters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rldg_core.errors import UserError
from rldg_policy.serving.chunks import Chunk
from rldg_policy.serving.records import Action, Counts, Episode, Received, Settings
from rldg_policy.serving.scheduler import InferenceScheduler, Timing
from rldg_policy.serving.store import PolicyStore
from rldg_policy.serving.weights import Weights, WeightsQueue

MAX_WAITING = 10
"""Observations kept until START arrives (the depth of the topic's QoS)."""


class ServerState:
    """episode: the running one; waiting: observations in order of arrival; taken_ns: stamp of the newest observation of
    the episode that was answered or missed."""

    def __init__(self, settings: Settings, timing: Timing, wake: Callable[[], None] | None) -> None:
        self.settings = settings
        self.scheduler = InferenceScheduler(settings, timing, wake)
        self.store = PolicyStore(threaded=wake is not None)
        self.weights = WeightsQueue()
        self.counts = Counts()
        self.episode: Episode | None = None
        self.waiting: deque[Received] = deque(maxlen=MAX_WAITING)
        self.taken_ns: int | None = None
        self._applied: Weights | None = None

    def start(self, episode: Episode) -> None:
        """Start an episode; observations that waited for it are kept."""
        self.episode, self.taken_ns = episode, None
        kept = [item for item in self.waiting if item.observation.stamp_ns >= episode.first_stamp_ns]
        self.waiting = deque(kept, maxlen=MAX_WAITING)
        self._begin_session()

    def end(self) -> None:
        """End the episode."""
        self.episode = None
        self.scheduler.end()

    def swap(self) -> None:
        """Drop inferences and chunks of the policy that was active; the new one takes the rest of the episode."""
        self._applied = None
        self._begin_session()

    def _begin_session(self) -> None:
        if self.episode and self.store.active:
            self.scheduler.begin(self.store.served, self.episode)
        else:
            self.scheduler.end()

    def is_due(self, stamp_ns: int, episode: Episode) -> bool:
        """Return whether an observation belongs to the episode and was neither answered nor missed."""
        return stamp_ns >= episode.first_stamp_ns and (self.taken_ns is None or stamp_ns > self.taken_ns)

    def apply(self, weights: Weights, update: Callable[[Weights], None]) -> bool:
        """Give weights to the active policy by `update`, once. Returns False if they are refused, and keeps why."""
        if weights is self._applied:
            return True
        active = self.store.served.loaded
        assert active.trainable
        try:
            if weights.spec_hash != active.trainable.spec_hash:
                raise UserError(
                    f"policy {active.policy_id!r}: weights version {weights.version} are for another specification"
                )
            update(weights)
        except UserError as error:
            self.scheduler.last_error = str(error)
            return False
        self._applied = weights
        return True

    def action(self, received: Received, chunk: Chunk) -> Action:
        """Return the answer to an observation: the first action of the chunk."""
        policy_id = self.store.served.loaded.policy_id
        return Action(received.observation.stamp_ns, chunk.values[0], policy_id, chunk.version, received.received_s)

    def miss(self, reason: str, ticks: int = 1) -> None:
        """Count missed ticks during an episode; ticks: how many of them are not in `counts.ticks` yet."""
        if self.episode:
            self.counts.ticks += ticks
            self.counts.missed += max(1, ticks)
        self.scheduler.last_error = reason
