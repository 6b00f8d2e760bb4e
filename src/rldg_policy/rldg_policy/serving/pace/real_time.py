"""Real time: each policy infers on its own thread, and ticks go on meanwhile. Times are monotonic [s].

A tick is answered with a new chunk if it arrives in time, else from the queued chunks, else by holding the arm; after
`watchdog_s` without an action it is not answered, and the gate latches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rldg_core.policy import PolicySpec
from rldg_policy.serving import latency
from rldg_policy.serving.latency import Durations
from rldg_policy.serving.records import Action, Received, Settings
from rldg_policy.serving.state import ServerState

STALE_PERIODS = 2
"""Maximum age of an observation that is answered, in control periods."""


@dataclass
class _Tick:
    """An observation being answered. fresh: an inference from it should finish in time."""

    received: Received
    fresh: bool


class RealTimeServing:
    """Answers each recent observation within about a control period."""

    threaded = True
    needs_steps = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._period_ns = settings.task.period_ns
        self._tick: _Tick | None = None
        self._dry_since_ns: int | None = None

    @property
    def pending(self) -> bool:
        """Whether a tick waits for an inference."""
        return self._tick is not None

    def lead_ticks(self, inferences: Durations) -> int:
        """Return how many ticks before its first action an inference must start, by its median duration."""
        settings = self._settings
        return latency.lead_ticks(inferences.percentile_s(50), settings.answer_within_s, settings.task.period_s)

    def slowness(self, spec: PolicySpec, inferences: Durations) -> str:
        """Return why a policy is too slow, or ""."""
        return latency.slowness(spec, self._settings.task.rates.control_hz, inferences)

    def on_start(self) -> None:
        """Forget the tick of the previous episode."""
        self._tick = self._dry_since_ns = None

    def on_end(self) -> None:
        """Do not answer the last tick of the episode."""
        self._tick = None

    def on_step(self, stamp_ns: int, continues: bool) -> None:
        """Do nothing: an answer does not wait for the Step before it."""

    def on_swap(self, state: ServerState) -> None:
        """Let the new policy answer the open tick."""
        if self._tick:
            self._tick.fresh = state.scheduler.observe(self._tick.received.observation)

    def next_action(self, state: ServerState, now_ns: int, now_s: float) -> Action | None:
        """Return the answer to the open tick or to the next observation; None: not yet. Missed ticks are counted."""
        while True:
            state.scheduler.collect()
            if self._tick is None:
                self._tick = self._begin_tick(state, now_ns)
            if self._tick is None or (answer := self._answer(state, self._tick, now_s)) is None:
                return None
            self._tick = None
            state.counts.ticks += 1
            if isinstance(answer, Action):
                return answer
            state.miss(answer, ticks=0)

    def _begin_tick(self, state: ServerState, now_ns: int) -> _Tick | None:
        """Begin the tick of the next observation that is due. Returns None if there is none."""
        while state.episode is not None and state.waiting:
            received = state.waiting.popleft()
            stamp_ns = received.observation.stamp_ns
            if not state.is_due(stamp_ns, state.episode):
                continue
            if state.taken_ns is not None:
                lost = round((stamp_ns - state.taken_ns) / self._period_ns) - 1
                if lost > 0:
                    state.miss(f"no observation for {lost} ticks", ticks=lost)
            state.taken_ns = stamp_ns
            age_ns, active = now_ns - stamp_ns, state.store.active
            if active is None:
                state.miss("no policy is active")
            elif not now_ns and stamp_ns:
                state.counts.rejected += 1
                state.miss("observation: age unknown: use_sim_time is true, but /clock is not published")
            elif abs(age_ns) > STALE_PERIODS * self._period_ns:
                state.counts.rejected += 1
                state.miss(f"observation: {age_ns * 1e-9:.3f} s old, expected 0 to two periods")
            else:
                if self._settings.live_weights and active.trainable and (newest := state.weights.newest()):
                    state.apply(newest, state.store.served.worker.update)
                return _Tick(received, state.scheduler.observe(received.observation))
        return None

    def _answer(self, state: ServerState, tick: _Tick, now_s: float) -> Action | str | None:
        """Return an action, the reason of a missed tick, or None: not yet. The next observation ends the waiting."""
        scheduler, settings, received = state.scheduler, self._settings, tick.received
        stamp_ns, waited_s = received.observation.stamp_ns, now_s - received.received_s
        waits = scheduler.busy and not state.waiting
        if (chunk := scheduler.action_at(stamp_ns)) is not None:
            stale = tick.fresh and scheduler.newest_ns < stamp_ns
            if stale and waits and waited_s < settings.answer_within_s:
                return None
            self._dry_since_ns = None
            return state.action(received, chunk)
        if scheduler.fault:
            return scheduler.fault
        if waits and waited_s < settings.hold_after_s:
            return None
        return self._hold(state, received)

    def _hold(self, state: ServerState, received: Received) -> Action | str:
        """Answer a tick without an action by holding the arm, or with the reason why it is missed."""
        loaded, stamp_ns = state.store.served.loaded, received.observation.stamp_ns
        if self._dry_since_ns is None:
            self._dry_since_ns = stamp_ns
        dry_s = (stamp_ns - self._dry_since_ns) * 1e-9
        if dry_s > self._settings.watchdog_s:
            return f"policy {loaded.policy_id!r}: no action for {dry_s:.1f} s"
        state.counts.dry += 1
        zeros = np.zeros(loaded.spec.action_dim, dtype=np.float32)
        return Action(stamp_ns, zeros, loaded.policy_id, loaded.spec.version, received.received_s, hold=True)
