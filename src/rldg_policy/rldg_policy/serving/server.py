"""The policy server as a state machine without ROS: events in, at most one action per observation out.

Which observation is acted on depends on the content of the events alone, never on their order of arrival
(docs/architecture.md, Lock-step 3, 4, 7): observations wait until START and, when the active policy trains
live in lock-step, until the weights that are due have arrived. In lock-step the answer to observation k > 0
is held until Step k-1 is known to go on: otherwise the first observation of the next episode, when it overtakes
END, would be answered as a part of the episode before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.policy_checks import check_chunk, ticks_per_inference
from rldg_core.registry import one_line
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.serving.store import Loaded, PolicyStore
from rldg_policy.serving.weights import Weights, WeightsQueue

STARTS_KEPT = 10
"""As many events as `episode_event` sends again to a late subscriber."""

MAX_WAITING = 10
"""Observations kept until START arrives (the depth of the topic's QoS)."""


@dataclass(frozen=True)
class Settings:
    """lockstep: every observation is answered however late; live_weights: the active policy takes weights from a
    learner; replan: infer at every tick and use the first action (else execute the whole chunk open loop)."""

    task: Task
    lockstep: bool = False
    live_weights: bool = False
    replan: bool = True


@dataclass(frozen=True)
class Episode:
    """What START says."""

    episode_id: str
    instruction: str
    seed: int
    first_stamp_ns: int
    step_count: int


@dataclass(frozen=True)
class Action:
    """The answer to the observation of `stamp_ns`: values (A,) in [-1, 1]."""

    stamp_ns: int
    values: NDArray[np.float32]
    policy_id: str
    version: int
    received_s: float


@dataclass
class Counts:
    """ticks = answered + missed; see PolicyStatus.msg."""

    ticks: int = 0
    missed: int = 0
    rejected: int = 0


class PolicyServer:
    """Push events, then call `next_action` until it returns None. All calls come from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._period_ns = settings.task.period_ns
        self.store = PolicyStore()
        self.counts = Counts()
        self.last_error = ""
        self._weights = WeightsQueue()
        self._applied: Weights | None = None
        self._episode: Episode | None = None
        self._starts: deque[tuple[str, int]] = deque(maxlen=STARTS_KEPT)
        self._index = 0
        self._last_stamp_ns: int | None = None
        self._last_step: tuple[int, bool] | None = None
        self._held: Action | None = None
        self._chunk: deque[NDArray[np.float32]] = deque()
        self._waiting: deque[tuple[Observation, float]] = deque(maxlen=MAX_WAITING)

    # -- events -----------------------------------------------------------------------------------------
    def start(self, episode: Episode) -> None:
        """START of an episode: observations from its first one on are due. Heard again, it is ignored."""
        start = (episode.episode_id, episode.first_stamp_ns)
        if start in self._starts:
            return
        self._starts.append(start)
        self._episode = episode
        self._index = 0
        self._last_stamp_ns = None
        self._held = None
        kept = [item for item in self._waiting if item[0].stamp_ns >= episode.first_stamp_ns]
        self._waiting = deque(kept, maxlen=MAX_WAITING)
        self._reset_active()

    def end(self, episode_id: str) -> None:
        """END of the running episode; of another one it is ignored."""
        if self._episode is not None and self._episode.episode_id == episode_id:
            self._episode = None

    def step(self, stamp_ns: int, goes_on: bool) -> None:
        """Step of the observation of `stamp_ns`: `goes_on` when it is neither terminated nor truncated."""
        self._last_step = (stamp_ns, goes_on)

    def observe(self, observation: Observation, received_s: float) -> None:
        """An observation; `received_s` is monotonic time."""
        self._waiting.append((observation, received_s))

    def reject(self, reason: str) -> None:
        """An observation that could not even be read: due during an episode, hence missed."""
        self.counts.rejected += 1
        self._miss(reason, ticks=1 if self._episode else 0)

    def receive_weights(self, weights: Weights) -> None:
        """Weights of the learner. Raises UserError (and keeps it as `last_error`) when they are refused."""
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
        """Keep a loaded policy and, on request, swap to it. Called between two ticks."""
        replaced = self.store.active
        self.store.add(loaded)
        if activate and self.store.active is not loaded:
            self.store.activate(loaded.policy_id)
        if self.store.active is not replaced:
            self._swapped()

    def activate(self, policy_id: str) -> None:
        """Swap to a loaded policy. Raises UserError when it is unknown; the old one then stays."""
        try:
            self.store.activate(policy_id)
        except UserError as error:
            self.last_error = str(error)
            raise
        self._swapped()

    def _swapped(self) -> None:
        self._applied = None
        self._reset_active()

    def _reset_active(self) -> None:
        self._chunk.clear()
        if self._episode and self.store.active:
            try:
                self.store.active.policy.reset(self._episode.instruction, self._episode.seed)
            except Exception as error:  # plug-in border: the ticks that follow report what does not work
                self.last_error = f"policy {self.store.active.policy_id!r}: reset failed: {one_line(error)}"

    # -- the tick ---------------------------------------------------------------------------------------
    def next_action(self, now_ns: int) -> Action | None:
        """Answer the oldest waiting observation; None when there is nothing to answer (yet).

        `now_ns` is on the clock of the stamps. An observation that cannot be answered is counted as missed
        and the next one is tried.
        """
        if self._held is None:
            self._held = self._compute(now_ns)
        if self._episode is None or self._held is None or not self._released(self._held):
            return None
        action, self._held = self._held, None
        self._last_stamp_ns = action.stamp_ns
        return action

    def _released(self, action: Action) -> bool:
        """Real-time: at once. Lock-step: the first action of an episode, or Step k-1 goes on."""
        if not self._settings.lockstep or self._last_stamp_ns is None:
            return True
        return self._last_step == (self._last_stamp_ns, True)

    def _compute(self, now_ns: int) -> Action | None:
        while self._episode is not None and self._waiting:
            observation, received_s = self._waiting[0]
            answered = self._last_stamp_ns is not None and observation.stamp_ns <= self._last_stamp_ns
            if answered or observation.stamp_ns < self._episode.first_stamp_ns:
                self._waiting.popleft()
                continue
            if self._settings.lockstep and not self._ready(self._episode):
                return None
            self._waiting.popleft()
            try:
                self._note_tick(observation.stamp_ns)
                return self._act(observation, received_s, now_ns)
            except Exception as error:  # plug-in border: counted and reported, the next tick goes on
                self._miss(one_line(error), ticks=0)
        return None

    def _ready(self, episode: Episode) -> bool:
        """Lock-step: a policy is active and, if it trains live, holds the version that is due."""
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
                    f"policy {active.policy_id!r}: weights version {weights.version} are of another specification"
                )
            active.trainable.update_weights(weights.data, weights.version)
        except UserError as error:
            self.last_error = str(error)
            return False
        self._applied = weights
        return True

    def _note_tick(self, stamp_ns: int) -> None:
        """Count the tick, and in real-time the ticks whose observation never came."""
        self.counts.ticks += 1
        self._index += 1
        if self._settings.lockstep:
            return
        if self._last_stamp_ns is not None:
            lost = round((stamp_ns - self._last_stamp_ns) / self._period_ns) - 1
            if lost > 0:
                self._miss(f"no observation for {lost} ticks", ticks=lost)
        self._last_stamp_ns = stamp_ns

    def _act(self, observation: Observation, received_s: float, now_ns: int) -> Action:
        active = self.store.active
        if active is None:
            raise UserError("no policy is active")
        if not self._settings.lockstep:
            age_ns = now_ns - observation.stamp_ns
            if age_ns > 2 * self._period_ns:
                self.counts.rejected += 1
                raise UserError(f"observation: {age_ns * 1e-9:.3f} s old, over two periods")
            if self._settings.live_weights and active.trainable and (newest := self._weights.newest()):
                self._apply(active, newest)
        if not self._chunk:
            spec = active.policy.spec
            chunk = check_chunk(active.policy.act(observation), spec)
            ticks = ticks_per_inference(spec, self._settings.task.rates.control_hz)
            self._chunk.extend(chunk[: ticks if self._settings.replan else spec.horizon])
        values = self._chunk.popleft()
        return Action(observation.stamp_ns, values, active.policy_id, active.policy.spec.version, received_s)

    def _miss(self, reason: str, ticks: int) -> None:
        """Count a miss; `ticks` that nothing else has counted yet."""
        self.counts.ticks += ticks
        self.counts.missed += max(1, ticks) if self._episode else 0
        self.last_error = reason
