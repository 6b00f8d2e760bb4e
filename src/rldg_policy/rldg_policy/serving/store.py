"""Loaded policies by name, and the active one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rldg_core import registry
from rldg_core.errors import UserError
from rldg_core.policy import Policy, PolicySpec, TrainablePolicy
from rldg_core.task import Task
from rldg_policy.serving.inference import Worker, import_backend
from rldg_policy.serving.latency import Durations


@dataclass(frozen=True)
class Loaded:
    """A policy that is loaded, warmed up and compatible with the task."""

    policy_id: str
    backend: str
    path: str
    policy: Policy

    @property
    def spec(self) -> PolicySpec:
        """Inputs and outputs of the policy."""
        return self.policy.spec

    @property
    def trainable(self) -> TrainablePolicy | None:
        """The policy if it takes weights from a learner, else None."""
        return self.policy if isinstance(self.policy, TrainablePolicy) else None


@dataclass
class Served:
    """A loaded policy and its worker. inferences: their durations; slow: slower than its rate."""

    loaded: Loaded
    worker: Worker
    inferences: Durations = field(default_factory=Durations)
    slow: bool = False
    reported_slow: bool = False


def load_policy(policy_id: str, backend: str, path: str, explore: bool, task: Task, paced: bool = True) -> Loaded:
    """Load a policy with `rldg_core.registry.load_policy`; keep its back-end and path."""
    import_backend(backend)
    policy = registry.load_policy(policy_id, backend, Path(path) if path else None, explore, task, paced)
    return Loaded(policy_id, backend, path, policy)


class PolicyStore:
    """Loaded policies. Call it from one thread at a time."""

    def __init__(self, threaded: bool = False) -> None:
        """threaded: each policy gets its own thread."""
        self._threaded = threaded
        self._served: dict[str, Served] = {}
        self._active: Served | None = None
        self.swaps = 0

    @property
    def active(self) -> Loaded | None:
        """The active policy, None if there is none."""
        return self._active.loaded if self._active else None

    @property
    def served(self) -> Served:
        """The active policy and its worker; requires an active policy."""
        assert self._active
        return self._active

    def add(self, loaded: Loaded) -> None:
        """Add a policy under its name. Replacing the active policy swaps to the new one."""
        name = loaded.policy_id
        old = self._served.get(name)
        self._served[name] = Served(loaded, Worker(name, loaded.policy, self._threaded))
        if old is not None:
            if old is self._active:
                self.activate(name)
            old.worker.close()

    def activate(self, policy_id: str) -> None:
        """Activate a loaded policy. Raises UserError naming the loaded ones."""
        self._active = self._get(policy_id)
        self.swaps += 1

    def unload(self, policy_id: str) -> None:
        """Unload a policy. Raises UserError when it is active or unknown."""
        served = self._get(policy_id)
        if served is self._active:
            raise UserError(f"policy {policy_id!r} is active: activate another one first")
        del self._served[policy_id]
        served.worker.close()

    def all(self) -> list[Loaded]:
        """Return all loaded policies in order of loading."""
        return [served.loaded for served in self._served.values()]

    def close(self, timeout_s: float = 0.0) -> None:
        """Close all policies and wait for running calls."""
        workers = [served.worker for served in self._served.values()]
        self._served.clear()
        self._active = None
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.join(timeout_s)

    def _get(self, policy_id: str) -> Served:
        served = self._served.get(policy_id)
        if served is None:
            raise UserError(f"unknown policy {policy_id!r}, loaded: {', '.join(self._served) or 'none'}")
        return served
