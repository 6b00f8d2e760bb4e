"""Policy back-ends by name: entry points of group `rldg.policies`, listed without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import cast

from rldg_core.errors import UserError, cause
from rldg_core.plugins import Plugins
from rldg_core.policy import Policy, PolicyCheck, PolicyFactory
from rldg_core.policy_checks import check_spec
from rldg_core.task import Task

_POLICIES = Plugins("rldg.policies", "policy back-end")
_CHECKS = Plugins("rldg.policy_checks", "check of policy back-end")
"""PolicyCheck by back-end, for those that have one; its module imports neither torch nor jax."""


def backends() -> list[str]:
    """Return the names of the installed back-ends, sorted."""
    return _POLICIES.names()


def factory(backend: str) -> PolicyFactory:
    """Import a back-end (and with it torch or jax). Raises UserError listing the installed ones."""
    return cast(PolicyFactory, _POLICIES.load(backend))


def check_backend(backend: str) -> None:
    """Raise UserError when a back-end is unknown or its module is missing; the module itself is not imported."""
    entry = _POLICIES.entry_point(backend)
    try:
        found = find_spec(entry.module)
    except Exception as error:  # of the packages above the module
        raise UserError(f"{_POLICIES.describe(entry)} cannot be imported: {cause(error)}") from error
    if found is None:
        raise UserError(f"{_POLICIES.describe(entry)}: no module {entry.module}")


def check_before_start(backend: str, path: Path | None, task: Task) -> None:
    """Raise UserError for faults of a policy found without importing it (entry points `rldg.policy_checks`)."""
    check_backend(backend)
    if backend in _CHECKS.names():
        cast(PolicyCheck, _CHECKS.load(backend))(backend, path, task)


def load_policy(
    policy_id: str, backend: str, path: Path | None, explore: bool, task: Task, paced: bool = True
) -> Policy:
    """Import, construct, check and warm up a policy. Uses no shared state, so any thread may call it.

    paced: as for `check_spec`. Raises UserError with one line, whatever exception the back-end raised.
    """
    if not policy_id:
        raise UserError("policy_id: must not be empty")
    make = factory(backend)
    try:
        policy = make(path, task, explore)
        check_spec(policy_id, policy.spec, task, paced)
        policy.warm_up()
    except UserError:
        raise
    except Exception as error:  # a back-end is a plug-in: report any exception
        raise UserError(f"policy {policy_id!r}: back-end {backend} failed to load: {cause(error)}") from error
    return policy
