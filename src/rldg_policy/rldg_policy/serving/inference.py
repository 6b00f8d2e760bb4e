"""Inference of one policy on one thread: import, sessions, inference, release of memory.

In real time every loaded policy has its own thread, so that no reset, inference or release of memory, not even of a
policy that was just replaced, delays a tick. In lock-step the same work is done inside the calls. Garbage collection is
limited, because a full collection with torch imported blocks the interpreter for 0.5 s, which is five ticks.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError, cause
from rldg_core.policy import Policy, TrainablePolicy, WindowedPolicy
from rldg_core.policy_checks import check_chunk
from rldg_core.registry import factory
from rldg_core.types import Observation
from rldg_policy.serving.input_checks import check_observation
from rldg_policy.serving.weights import Weights

_imported: set[str] = set()


def import_backend(backend: str) -> None:
    """Import a back-end; its objects are then excluded from garbage collection (gc.freeze).

    Raises UserError listing the installed back-ends.
    """
    factory(backend)
    if backend not in _imported:
        _imported.add(backend)
        gc.freeze()


def release_memory() -> None:
    """Return freed memory to the system; glibc otherwise keeps the heap of a large model."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # another C library
        return


@dataclass(frozen=True, eq=False)
class Session:
    """A policy in one episode, or in the part of an episode after a swap. deliver: called with each result on the
    policy's thread. A new session abandons pending work of the previous one, so no state passes between them."""

    instruction: str
    seed: int
    deliver: Callable[[Result], None]


@dataclass(frozen=True, eq=False)
class Result:
    """Result for the observation with `stamp_ns` (-1: of the reset): values (H, A), or None and the error; abandoned:
    another session started first."""

    session: Session
    stamp_ns: int = -1
    values: NDArray[np.float32] | None = None
    version: int = 0
    duration_s: float = 0.0
    error: str = ""
    abandoned: bool = False


class Worker:
    """Runs a policy. Requests come from any thread and are processed in order; of pending inferences only the newest is
    run."""

    def __init__(self, policy_id: str, policy: Policy, threaded: bool) -> None:
        self._name = f"policy {policy_id!r}"
        self._policy: Policy | None = policy
        self._window = policy.spec.window if isinstance(policy, WindowedPolicy) else 1
        self._changed = threading.Condition(threading.RLock())
        self._session: Session | None = None
        self._begun: Session | None = None
        self._first, self._fault = True, ""
        self._inbox: deque[tuple[Observation, bool]] = deque()
        self._abandoned: deque[Session] = deque()
        self._weights: Weights | None = None
        self._inferring: Session | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True) if threaded else None
        if self._thread:
            self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether an inference is pending."""
        with self._changed:
            return any(infer for _, infer in self._inbox)

    @property
    def busy(self) -> bool:
        """Whether an inference of the current session is running or pending."""
        with self._changed:
            return self.waiting or (self._inferring is not None and self._inferring is self._session)

    def begin(self, session: Session) -> None:
        """Reset the policy for a new session; the previous session ends."""
        with self._changed:
            if self._session and self.waiting:
                self._abandoned.append(self._session)
            self._session = session
            self._inbox.clear()
            self._notify()

    def observe(self, observation: Observation, infer: bool) -> bool:
        """Give an observation of the current session, to infer from or to remember.

        Returns whether an inference from it is pending; a pending inference from an older observation is replaced.
        """
        with self._changed:
            infer = infer or self.waiting
            if infer or self._window > 1:
                older = ((o, False) for o, _ in self._inbox)
                self._inbox = deque([*older, (observation, infer)], maxlen=self._window)
                self._notify()
            return infer

    def update(self, weights: Weights) -> None:
        """Set the weights for the next inference."""
        with self._changed:
            self._weights = weights

    def close(self) -> None:
        """Close the policy after the current call."""
        with self._changed:
            self._closing = True
            self._inbox.clear()
            self._notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        if self._thread:
            self._thread.join(timeout_s)

    # -- the policy's thread ----------------------------------------------------------------------------
    def _notify(self) -> None:
        if self._thread:
            self._changed.notify()
        else:
            self._work()

    def _loop(self) -> None:
        while self._policy is not None:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._inbox or self._session is not self._begun)
            self._work()

    def _work(self) -> None:
        """Process all pending work."""
        while not self._closing and (task := self._next()):
            session, observation, infer = task
            while self._abandoned:
                abandoned = self._abandoned.popleft()
                abandoned.deliver(Result(abandoned, error=f"{self._name}: an episode started", abandoned=True))
            if session is not self._begun:
                self._reset(session)
            if observation is not None and (result := self._handle(session, observation, infer)):
                session.deliver(result)
            # After the delivery: when the policy is idle, its result is available.
            self._inferring = None
        if self._closing and self._policy:
            self._policy.close()
            self._policy = None
            release_memory()

    def _next(self) -> tuple[Session, Observation | None, bool] | None:
        with self._changed:
            session = self._session
            if session is None or not (self._inbox or session is not self._begun):
                return None
            observation, infer = self._inbox.popleft() if self._inbox else (None, False)
            self._inferring = session if infer else None
            return session, observation, infer

    def _reset(self, session: Session) -> None:
        assert self._policy
        self._begun, self._first, self._fault = session, True, ""
        try:
            self._policy.reset(session.instruction, session.seed)
        except Exception as error:  # a plug-in may raise anything; no observation of this session is answered
            self._fault = f"{self._name}: reset failed: {cause(error)}"
            session.deliver(Result(session, error=self._fault))

    def _handle(self, session: Session, observation: Observation, infer: bool) -> Result | None:
        """Return the result of an observation; None if it is only remembered."""
        policy, began_s = self._policy, time.monotonic()
        assert policy
        try:
            if self._fault:
                raise UserError(self._fault)
            check_observation(observation, policy.spec, sizes=self._first)
            self._first = False
            if not infer:
                if isinstance(policy, WindowedPolicy):
                    policy.remember(observation)
                return None
            refused = self._apply_weights(policy)
            values = check_chunk(policy.act(observation), policy.spec)
        except Exception as error:  # a plug-in may raise anything; it is reported with the tick
            return Result(session, observation.stamp_ns, error=cause(error))
        duration_s = time.monotonic() - began_s
        return Result(session, observation.stamp_ns, values, policy.spec.version, duration_s, refused)

    def _apply_weights(self, policy: Policy) -> str:
        with self._changed:
            weights, self._weights = self._weights, None
        if weights is not None and isinstance(policy, TrainablePolicy):
            try:
                policy.update_weights(weights.data, weights.version)
            except UserError as error:
                return str(error)
        return ""
