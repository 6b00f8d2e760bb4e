"""The policy server as a state machine without ROS: events in, at most one action per observation out.

The result depends on the content of the events, not on their order of arrival
(docs/explanation/architecture.md, Lock-step 3, 4, 7): observations wait until START and, when the active policy trains
live in lock-step, until the weights that are due have arrived. In lock-step the answer to observation k > 0
is held until Step k-1 says that the episode continues: otherwise the first observation of the next episode, if it
arrives before END, would be answered as part of the previous episode.

In real time each policy infers on its own thread. A tick is answered with a new chunk if it arrives in time, else from
the queued chunks, else by holding the arm; after `watchdog_s` without an action it is not answered, and the gate
latches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rldg_core.errors import UserError
from rldg_core.types import Observation
from rldg_policy.serving.chunks import Chunk
from rldg_policy.serving.records import Action, Counts, Episode, Settings
from rldg_policy.serving.scheduler import InferenceScheduler
from rldg_policy.serving.store import Loaded, PolicyStore
from rldg_policy.serving.weights import Weights, WeightsQueue

STARTS_KEPT = 10
"""Depth of the transient-local topic `episode_event`; replayed events are ignored."""

MAX_WAITING = 10
"""Observations kept until START arrives (the depth of the topic's QoS)."""


@dataclass
class _Tick:
    """An observation being answered. fresh: an inference from it should finish in time."""

    observation: Observation
    received_s: float
    fresh: bool = False


class PolicyServer:
    """Push events, then call `next_action` until it returns None. Calls come from one thread at a time."""

    def __init__(self, settings: Settings, wake: Callable[[], None] | None = None) -> None:
        """wake: called by the policies' threads when a result is available; None: inference runs inside the calls."""
        self._settings = settings
        self._period_ns = settings.task.period_ns
        self._scheduler = InferenceScheduler(settings, wake)
        self.store = PolicyStore(threaded=wake is not None)
        self.counts = Counts()
        self._weights = WeightsQueue()
        self._applied: Weights | None = None
        self._episode: Episode | None = None
        self._starts: deque[tuple[str, int]] = deque(maxlen=STARTS_KEPT)
        self._index = 0
        self._last_stamp_ns: int | None = None
        self._last_step: tuple[int, bool] | None = None
        self._dry_since_ns: int | None = None
        self._held: Action | None = None
        self._held_from: tuple[Observation, float] | None = None
        self._tick: _Tick | None = None
        self._waiting: deque[tuple[Observation, float]] = deque(maxlen=MAX_WAITING)

    # -- events -----------------------------------------------------------------------------------------
    def start(self, episode: Episode) -> None:
        """Start an episode, whose observations are then answered. A repeated START is ignored."""
        start = (episode.episode_id, episode.first_stamp_ns)
        if start in self._starts:
            return
        self._starts.append(start)
        self._episode = episode
        self._index = 0
        self._last_stamp_ns = self._dry_since_ns = None
        self._held = self._tick = None
        kept = [item for item in self._waiting if item[0].stamp_ns >= episode.first_stamp_ns]
        self._waiting = deque(kept, maxlen=MAX_WAITING)
        self._begin_session()

    def end(self, episode_id: str) -> None:
        """End the current episode; END of another episode is ignored."""
        if self._episode is not None and self._episode.episode_id == episode_id:
            self._episode = self._tick = None
            self._scheduler.end()

    def step(self, stamp_ns: int, continues: bool) -> None:
        """Note the Step of the observation with `stamp_ns`; `continues`: neither terminated nor truncated."""
        self._last_step = (stamp_ns, continues)

    def observe(self, observation: Observation, received_s: float) -> None:
        """Queue an observation; `received_s` is monotonic time."""
        self._waiting.append((observation, received_s))

    def reject(self, reason: str) -> None:
        """Count an observation that could not be decoded; during an episode it is a missed tick."""
        self.counts.rejected += 1
        self._miss(reason)

    def receive_weights(self, weights: Weights) -> None:
        """Queue weights of the learner. Raises UserError, also kept as `last_error`, when they are refused."""
        try:
            active = self.store.active
            if active and active.trainable and weights.spec_hash != active.trainable.spec_hash:
                raise UserError(
                    f"policy_weights: version {weights.version} is for specification {weights.spec_hash[:12]}, "
                    f"policy {active.policy_id!r} has {active.trainable.spec_hash[:12]}: refused"
                )
            self._weights.put(weights)
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
        """Drop the old policy's inferences and chunks; the new one answers the open observation."""
        self._applied = None
        if self._held is not None and self._held_from is not None:
            self._waiting.appendleft(self._held_from)
            self._held, self._index, self.counts.ticks = None, self._index - 1, self.counts.ticks - 1
        self._begin_session()
        if self._tick:
            self._tick.fresh = self._scheduler.observe(self._tick.observation)

    def _begin_session(self) -> None:
        if self._episode and self.store.active:
            self._scheduler.begin(self.store.served, self._episode)
        else:
            self._scheduler.end()

    @property
    def last_error(self) -> str:
        """Reason of the last failed load, activation, inference or tick, one line."""
        return self._scheduler.last_error

    @last_error.setter
    def last_error(self, reason: str) -> None:
        self._scheduler.last_error = reason

    def take_notices(self) -> list[str]:
        """Return the log lines since the last call."""
        notices = list(self._scheduler.notices)
        self._scheduler.notices.clear()
        return notices

    @property
    def episode_runs(self) -> bool:
        """Whether an episode is running, between START and END."""
        return self._episode is not None

    # -- the tick ---------------------------------------------------------------------------------------
    def next_action(self, now_ns: int, now_s: float = 0.0) -> Action | None:
        """Answer the oldest queued observation; None when nothing can be answered yet.

        now_ns: on the clock of the stamps; now_s: monotonic, used when policies infer on their own threads. An
        observation that cannot be answered is counted as missed, and the next one is tried.
        """
        return self._next_in_lockstep() if self._settings.lockstep else self._next_in_real_time(now_ns, now_s)

    @property
    def pending(self) -> bool:
        """Whether a tick waits for an inference: `next_action` must be called again later."""
        return self._tick is not None

    def _next_in_lockstep(self) -> Action | None:
        if self._held is None:
            self._held = self._compute()
        if self._episode is None or self._held is None or not self._released():
            return None
        action, self._held = self._held, None
        self._last_stamp_ns = action.stamp_ns
        return action

    def _released(self) -> bool:
        """Return whether the held action may be sent: it is the first of the episode, or Step k-1 continues."""
        return self._last_stamp_ns is None or self._last_step == (self._last_stamp_ns, True)

    def _compute(self) -> Action | None:
        while self._episode is not None and self._waiting:
            observation, received_s = self._held_from = self._waiting[0]
            if self._is_due(observation.stamp_ns, self._episode):
                if not self._ready(self._episode):
                    return None
                self._waiting.popleft()
                self.counts.ticks += 1
                self._index += 1
                self._scheduler.observe(observation)
                if (chunk := self._scheduler.action_at(observation.stamp_ns)) is not None:
                    return self._action(_Tick(observation, received_s), chunk)
                self._miss(self._scheduler.fault, ticks=0)
            else:
                self._waiting.popleft()
        return None

    def _is_due(self, stamp_ns: int, episode: Episode) -> bool:
        """Return whether an observation belongs to the episode and has not been answered."""
        return stamp_ns >= episode.first_stamp_ns and not (
            self._last_stamp_ns is not None and stamp_ns <= self._last_stamp_ns
        )

    def _ready(self, episode: Episode) -> bool:
        """Lock-step: return whether a policy is active and, if it trains live, has the weights version that is due."""
        active = self.store.active
        if active is None:
            return False
        if not (self._settings.live_weights and active.trainable):
            return True
        due = self._weights.due(episode.step_count + self._index)
        return due is not None and self._apply(active, due)

    def _apply(self, active: Loaded, weights: Weights) -> bool:
        if weights is self._applied:
            return True
        assert active.trainable
        try:
            if weights.spec_hash != active.trainable.spec_hash:
                raise UserError(
                    f"policy {active.policy_id!r}: weights version {weights.version} are for another specification"
                )
            if self._settings.lockstep:
                active.trainable.update_weights(weights.data, weights.version)
            else:
                self.store.served.worker.update(weights)
        except UserError as error:
            self.last_error = str(error)
            return False
        self._applied = weights
        return True

    def _next_in_real_time(self, now_ns: int, now_s: float) -> Action | None:
        while True:
            self._scheduler.collect()
            if self._tick is None and not self._begin_tick(now_ns):
                return None
            assert self._tick
            answer = self._answer(self._tick, now_s)
            if answer is None:
                return None
            self._tick = None
            self.counts.ticks += 1
            if isinstance(answer, Action):
                return answer
            self._miss(answer, ticks=0)

    def _begin_tick(self, now_ns: int) -> bool:
        """Start the tick of the next observation that is due. Returns False if there is none."""
        while self._episode is not None and self._waiting:
            observation, received_s = self._waiting.popleft()
            stamp_ns, active = observation.stamp_ns, self.store.active
            if not self._is_due(stamp_ns, self._episode):
                continue
            if self._last_stamp_ns is not None:
                lost = round((stamp_ns - self._last_stamp_ns) / self._period_ns) - 1
                if lost > 0:
                    self._miss(f"no observation for {lost} ticks", ticks=lost)
            self._last_stamp_ns = stamp_ns
            age_ns = now_ns - stamp_ns
            if active is None:
                self._miss("no policy is active")
            elif not now_ns and stamp_ns:
                self.counts.rejected += 1
                self._miss("observation: age unknown: use_sim_time is true, but /clock is not published")
            elif abs(age_ns) > 2 * self._period_ns:
                self.counts.rejected += 1
                self._miss(f"observation: {age_ns * 1e-9:.3f} s old, expected 0 to two periods")
            else:
                if self._settings.live_weights and active.trainable and (newest := self._weights.newest()):
                    self._apply(active, newest)
                self._tick = _Tick(observation, received_s, self._scheduler.observe(observation))
                return True
        return False

    def _answer(self, tick: _Tick, now_s: float) -> Action | str | None:
        """Return an action, the reason of a missed tick, or None: not yet. The next observation ends the waiting."""
        settings, stamp_ns = self._settings, tick.observation.stamp_ns
        waited_s = now_s - tick.received_s
        waits = self._scheduler.busy and not self._waiting
        if (chunk := self._scheduler.action_at(stamp_ns)) is not None:
            stale = tick.fresh and self._scheduler.newest_ns < stamp_ns
            return None if stale and waits and waited_s < settings.answer_within_s else self._action(tick, chunk)
        if self._scheduler.fault:
            return self._scheduler.fault
        if waits and waited_s < settings.hold_after_s:
            return None
        return self._hold(tick)

    def _hold(self, tick: _Tick) -> Action | str:
        """Answer a tick without an action by holding the arm, or with the reason why it is missed."""
        loaded, stamp_ns = self.store.served.loaded, tick.observation.stamp_ns
        if self._dry_since_ns is None:
            self._dry_since_ns = stamp_ns
        dry_s = (stamp_ns - self._dry_since_ns) * 1e-9
        if dry_s > self._settings.watchdog_s:
            return f"policy {loaded.policy_id!r}: no action for {dry_s:.1f} s"
        self.counts.dry += 1
        zeros = np.zeros(loaded.spec.action_dim, dtype=np.float32)
        return Action(stamp_ns, zeros, loaded.policy_id, loaded.spec.version, tick.received_s, hold=True)

    def _action(self, tick: _Tick, chunk: Chunk) -> Action:
        self._dry_since_ns = None
        policy_id = self.store.served.loaded.policy_id
        return Action(tick.observation.stamp_ns, chunk.values[0], policy_id, chunk.version, tick.received_s)

    def _miss(self, reason: str, ticks: int = 1) -> None:
        """Count missed ticks during an episode; ticks: how many of them are not in `counts.ticks` yet."""
        if self._episode:
            self.counts.ticks += ticks
            self.counts.missed += max(1, ticks)
        self.last_error = reason
