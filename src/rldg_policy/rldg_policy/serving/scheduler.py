"""Inference of the active policy in the current episode: when one starts, and the actions available for a tick."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from rldg_core.policy import PolicySpec
from rldg_core.policy_checks import ticks_per_inference
from rldg_core.types import Observation
from rldg_policy.serving.chunks import ActionQueue, Chunk
from rldg_policy.serving.inference import Result, Session
from rldg_policy.serving.latency import Durations
from rldg_policy.serving.records import Episode, Settings
from rldg_policy.serving.store import Served

NOTICES_KEPT = 20
"""Log lines kept until they are taken."""


class Timing(Protocol):
    """What follows from the duration of inferences [s]."""

    def lead_ticks(self, inferences: Durations) -> int:
        """Return how many ticks before its first action an inference must start (rule `whole`)."""

    def slowness(self, spec: PolicySpec, inferences: Durations) -> str:
        """Return why a policy is too slow, or ""."""


class InferenceScheduler:
    """Results arrive from the policy's thread, followed by a call of `wake`; all other calls come from one thread at a
    time."""

    def __init__(self, settings: Settings, timing: Timing, wake: Callable[[], None] | None) -> None:
        self._settings, self._timing, self._wake = settings, timing, wake
        self._hz, self._period_ns = settings.task.rates.control_hz, settings.task.period_ns
        self._queue = ActionQueue(settings.chunks, self._period_ns, settings.ensemble_k)
        self._results: deque[Result] = deque()
        self._session: Session | None = None
        self._served: Served | None = None
        self._inferred_ns: int | None = None
        self.fault = ""  # why the newest inference, or the reset, failed
        self.last_error = ""
        self.notices: deque[str] = deque(maxlen=NOTICES_KEPT)

    def begin(self, served: Served, episode: Episode) -> None:
        """Start an episode, or the rest of one after a swap: queued and running inferences are dropped."""
        self.end()
        self._served = served
        self._session = Session(episode.instruction, episode.seed, self._deliver)
        served.worker.begin(self._session)
        self.collect()

    def end(self) -> None:
        """End the episode."""
        self._queue.clear()
        self._session = self._served = self._inferred_ns = None
        self.fault = ""

    @property
    def busy(self) -> bool:
        """Whether an inference is running or pending."""
        return self._served is not None and self._served.worker.busy

    @property
    def newest_ns(self) -> int:
        """Stamp of the observation of the newest chunk, -1 if there is none."""
        return self._queue.newest_ns

    def action_at(self, stamp_ns: int) -> Chunk | None:
        """Return the action for the tick with this stamp as a chunk of length 1."""
        return self._queue.action_at(stamp_ns)

    def observe(self, observation: Observation) -> bool:
        """Give the policy an observation: it infers from it if an inference is due, else it only remembers it.

        Returns True if an inference started that should finish within the tick.
        """
        served, stamp_ns = self._served, observation.stamp_ns
        assert served
        typical_s = served.inferences.percentile_s(50)
        covered, busy = self._queue.covers(stamp_ns), served.worker.busy
        if self._settings.chunks == "whole":
            # A slow policy starts the next inference while the last actions of the current chunk are executed.
            lead_ns = self._timing.lead_ticks(served.inferences) * self._period_ns
            due = not busy and not self._queue.covers(stamp_ns + lead_ns)
        else:
            ticks = ticks_per_inference(served.loaded.spec, self._hz)
            since = None if self._inferred_ns is None else round((stamp_ns - self._inferred_ns) / self._period_ns)
            due = since is None or since >= ticks or not (covered or busy)
        self.fault = ""
        started = served.worker.observe(observation, due)
        if started:
            self._inferred_ns = stamp_ns
        self.collect()
        late = typical_s > self._settings.answer_within_s
        return started and not late and not (self._settings.chunks == "whole" and covered)

    def collect(self) -> None:
        """Process results; those of another session (before a swap, of another episode) are dropped."""
        while self._results:
            result = self._results.popleft()
            if result.session is not self._session:
                continue
            if result.error:
                if result.error != self.last_error:
                    self.notices.append(result.error)
                self.last_error = result.error
            if result.values is None:
                self.fault = result.error
            else:
                self._queue.put(Chunk(result.stamp_ns, result.values, result.version))
                self._note_duration(result.duration_s)

    def _deliver(self, result: Result) -> None:
        """Receive a result, on the policy's thread."""
        self._results.append(result)
        if self._wake:
            self._wake()

    def _note_duration(self, duration_s: float) -> None:
        served = self._served
        assert served
        served.inferences.add(duration_s)
        slow = self._timing.slowness(served.loaded.spec, served.inferences)
        if slow and not served.reported_slow:
            self.notices.append(f"policy {served.loaded.policy_id!r} is too slow: {slow}")
        served.slow = bool(slow)
        served.reported_slow |= served.slow
