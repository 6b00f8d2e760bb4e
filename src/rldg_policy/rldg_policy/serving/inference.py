"""One policy and the only thread that touches it: sessions, inference, the end.

In real time every loaded policy has a thread of its own, so that no reset, inference or release of memory - not even
of the policy that was just swapped away - holds up a tick. In lock-step the same work is done inside the calls.
"""

from __future__ import annotations

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
from rldg_core.types import Observation
from rldg_policy.serving.expected import check_observation
from rldg_policy.serving.memory import release_memory
from rldg_policy.serving.weights import Weights


@dataclass(frozen=True, eq=False)
class Session:
    """A policy in one episode, or in the part of it that follows a swap; `deliver` gets its results on the policy's
    thread. What an earlier session left undone is abandoned, so nothing leaks from one into the next."""

    instruction: str
    seed: int
    deliver: Callable[[Result], None]


@dataclass(frozen=True, eq=False)
class Result:
    """What came of the observation of `stamp_ns` (-1: of the reset): values (H, A), or None and why; abandoned: another
    session began before."""

    session: Session
    stamp_ns: int = -1
    values: NDArray[np.float32] | None = None
    version: int = 0
    duration_s: float = 0.0
    error: str = ""
    abandoned: bool = False


class Worker:
    """Work arrives from any thread and is done in order. Of inferences that wait, only the newest is made."""

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
        """Whether an inference waits to start."""
        with self._changed:
            return any(infer for _, infer in self._inbox)

    @property
    def busy(self) -> bool:
        """Whether an inference of the present session is under way or waits."""
        with self._changed:
            return self.waiting or (self._inferring is not None and self._inferring is self._session)

    def begin(self, session: Session) -> None:
        """Reset the policy for a session; the one before it is over."""
        with self._changed:
            if self._session and self.waiting:
                self._abandoned.append(self._session)
            self._session = session
            self._inbox.clear()
            self._notify()

    def observe(self, observation: Observation, infer: bool) -> bool:
        """An observation of the present session, to infer from or to remember. Returns whether an inference starts
        from it: also when one was waiting to start from an older one, which is remembered instead."""
        with self._changed:
            infer = infer or self.waiting
            if infer or self._window > 1:
                older = ((o, False) for o, _ in self._inbox)
                self._inbox = deque([*older, (observation, infer)], maxlen=self._window)
                self._notify()
            return infer

    def update(self, weights: Weights) -> None:
        """Weights that the next inference uses."""
        with self._changed:
            self._weights = weights

    def close(self) -> None:
        """Close the policy after the call that is under way."""
        with self._changed:
            self._closing = True
            self._inbox.clear()
            self._notify()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread."""
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
        """Everything there is to do."""
        while not self._closing and (task := self._next()):
            session, observation, infer = task
            while self._abandoned:
                abandoned = self._abandoned.popleft()
                abandoned.deliver(Result(abandoned, error=f"{self._name}: an episode began", abandoned=True))
            if session is not self._begun:
                self._reset(session)
            if observation is not None and (result := self._handle(session, observation, infer)):
                session.deliver(result)
            # After the delivery: whoever sees an idle policy may rely on its result being there.
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
        except Exception as error:  # plug-in border: no observation of this session is answered
            self._fault = f"{self._name}: reset failed: {cause(error)}"
            session.deliver(Result(session, error=self._fault))

    def _handle(self, session: Session, observation: Observation, infer: bool) -> Result | None:
        """None: nothing to tell."""
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
        except Exception as error:  # plug-in border: the tick reports it, the next one goes on
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
