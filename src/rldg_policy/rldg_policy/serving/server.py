"""The policy server as a state machine without ROS: events in, at most one action per observation out.

The result depends on the content of the events, not on their order of arrival
(docs/explanation/architecture.md, Lock-step 3, 4, 7): observations wait until START and, when the active policy trains
live in lock-step, until the weights that are due have arrived. When an observation is answered is decided by the rules
of the pace (`serving.pace`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rldg_core.errors import UserError
from rldg_core.types import Observation
from rldg_policy.serving.pace.rules import RULES
from rldg_policy.serving.records import Action, Counts, Episode, Received, Settings
from rldg_policy.serving.state import ServerState
from rldg_policy.serving.store import Loaded, PolicyStore
from rldg_policy.serving.weights import Weights

STARTS_KEPT = 10
"""Depth of the transient-local topic `episode_event`; replayed events are ignored."""


class PolicyServer:
    """Push events, then call `next_action` until it returns None. Calls come from one thread at a time."""

    def __init__(self, settings: Settings, wake: Callable[[], None] | None = None) -> None:
        """wake: called by the policies' threads, if the pace has such, when a result is available; None: inference runs
        inside the calls."""
        self._pace = RULES[settings.pace](settings)
        self._state = ServerState(settings, self._pace, wake if self._pace.threaded else None)
        self._starts: deque[tuple[str, int]] = deque(maxlen=STARTS_KEPT)

    @property
    def threaded(self) -> bool:
        """Whether policies infer on threads of their own."""
        return self._pace.threaded

    @property
    def needs_steps(self) -> bool:
        """Whether `step` must be called."""
        return self._pace.needs_steps

    @property
    def store(self) -> PolicyStore:
        """The loaded policies."""
        return self._state.store

    @property
    def counts(self) -> Counts:
        """Ticks since the start."""
        return self._state.counts

    # -- events -----------------------------------------------------------------------------------------
    def start(self, episode: Episode) -> None:
        """Start an episode, whose observations are then answered. A repeated START is ignored."""
        start = (episode.episode_id, episode.first_stamp_ns)
        if start in self._starts:
            return
        self._starts.append(start)
        self._pace.on_start()
        self._state.start(episode)

    def end(self, episode_id: str) -> None:
        """End the current episode; END of another episode is ignored."""
        if self._state.episode is not None and self._state.episode.episode_id == episode_id:
            self._pace.on_end()
            self._state.end()

    def step(self, stamp_ns: int, continues: bool) -> None:
        """Note the Step of the observation with `stamp_ns`; `continues`: neither terminated nor truncated."""
        self._pace.on_step(stamp_ns, continues)

    def observe(self, observation: Observation, received_s: float) -> None:
        """Queue an observation; `received_s` is monotonic time."""
        self._state.waiting.append(Received(observation, received_s))

    def reject(self, reason: str) -> None:
        """Count an observation that could not be decoded; during an episode it is a missed tick."""
        self.counts.rejected += 1
        self._state.miss(reason)

    def receive_weights(self, weights: Weights) -> None:
        """Queue weights of the learner. Raises UserError, also kept as `last_error`, when they are refused."""
        try:
            active = self.store.active
            if active and active.trainable and weights.spec_hash != active.trainable.spec_hash:
                raise UserError(
                    f"policy_weights: version {weights.version} is for specification {weights.spec_hash[:12]}, "
                    f"policy {active.policy_id!r} has {active.trainable.spec_hash[:12]}: refused"
                )
            self._state.weights.put(weights)
        except UserError as error:
            self.last_error = str(error)
            raise

    # -- swaps ------------------------------------------------------------------------------------------
    def add(self, loaded: Loaded, activate: bool) -> None:
        """Add a loaded policy and, if `activate`, swap to it. Call this between two ticks."""
        replaced = self.store.active
        self.store.add(loaded)
        if activate and self.store.active is not loaded:
            self.store.activate(loaded.policy_id)
        if self.store.active is not replaced:
            self._swapped()

    def activate(self, policy_id: str) -> None:
        """Swap to a loaded policy. Raises UserError when it is unknown; the active policy is then kept."""
        try:
            self.store.activate(policy_id)
        except UserError as error:
            self.last_error = str(error)
            raise
        self._swapped()

    def _swapped(self) -> None:
        self._state.swap()
        self._pace.on_swap(self._state)

    @property
    def last_error(self) -> str:
        """Reason of the last failed load, activation, inference or tick, one line."""
        return self._state.scheduler.last_error

    @last_error.setter
    def last_error(self, reason: str) -> None:
        self._state.scheduler.last_error = reason

    @property
    def fault(self) -> str:
        """Why the newest inference, or the reset, of the running episode failed, or ""."""
        return self._state.scheduler.fault

    def take_notices(self) -> list[str]:
        """Return the log lines since the last call."""
        notices = list(self._state.scheduler.notices)
        self._state.scheduler.notices.clear()
        return notices

    @property
    def episode_runs(self) -> bool:
        """Whether an episode is running, between START and END."""
        return self._state.episode is not None

    # -- the tick ---------------------------------------------------------------------------------------
    def next_action(self, now_ns: int, now_s: float = 0.0) -> Action | None:
        """Answer the oldest queued observation; None when nothing can be answered yet.

        now_ns: on the clock of the stamps; now_s: monotonic, used when policies infer on their own threads. An
        observation that cannot be answered is counted as missed, and the next one is tried.
        """
        return self._pace.next_action(self._state, now_ns, now_s)

    @property
    def pending(self) -> bool:
        """Whether a tick waits for an inference: `next_action` must be called again later."""
        return self._pace.pending
