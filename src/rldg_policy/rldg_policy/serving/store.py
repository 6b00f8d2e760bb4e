"""Loaded policies by name, and which one is active."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rldg_core import registry
from rldg_core.errors import UserError
from rldg_core.policy import Policy, TrainablePolicy
from rldg_core.task import Task


@dataclass(frozen=True)
class Loaded:
    """A policy that is loaded, warm and fits the task."""

    policy_id: str
    backend: str
    path: str
    policy: Policy

    @property
    def trainable(self) -> TrainablePolicy | None:
        """The policy, when it takes weights from a learner."""
        return self.policy if isinstance(self.policy, TrainablePolicy) else None


def load_policy(policy_id: str, backend: str, path: str, explore: bool, task: Task) -> Loaded:
    """`rldg_core.registry.load_policy`, kept with where it came from."""
    policy = registry.load_policy(policy_id, backend, Path(path) if path else None, explore, task)
    return Loaded(policy_id, backend, path, policy)


class PolicyStore:
    """Used by the tick thread alone."""

    def __init__(self) -> None:
        self._loaded: dict[str, Loaded] = {}
        self.active: Loaded | None = None
        self.swaps = 0

    def add(self, loaded: Loaded) -> None:
        """Keep a policy under its name. Replacing the active name swaps to the new one."""
        old = self._loaded.get(loaded.policy_id)
        self._loaded[loaded.policy_id] = loaded
        if old is not None:
            if old is self.active:
                self.activate(loaded.policy_id)
            old.policy.close()

    def activate(self, policy_id: str) -> Loaded:
        """Make a loaded policy the active one. Raises UserError naming those that are loaded."""
        loaded = self._get(policy_id)
        self.active = loaded
        self.swaps += 1
        return loaded

    def unload(self, policy_id: str) -> None:
        """Forget a policy. Raises UserError when it is active or unknown."""
        loaded = self._get(policy_id)
        if loaded is self.active:
            raise UserError(f"policy {policy_id!r} is active: activate another one first")
        del self._loaded[policy_id]
        loaded.policy.close()

    def all(self) -> list[Loaded]:
        """Every loaded policy, in order of loading."""
        return list(self._loaded.values())

    def close(self) -> None:
        """Close every policy."""
        for loaded in self._loaded.values():
            loaded.policy.close()
        self._loaded.clear()
        self.active = None

    def _get(self, policy_id: str) -> Loaded:
        loaded = self._loaded.get(policy_id)
        if loaded is None:
            raise UserError(f"unknown policy {policy_id!r}, loaded: {', '.join(self._loaded) or 'none'}")
        return loaded
