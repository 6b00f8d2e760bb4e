"""Policy back-ends by name: entry points of group `rldg.policies`, listed without importing them."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from rldg_core.errors import UserError, cause, quoted
from rldg_core.policy import CHECK_GROUP, ENTRY_POINT_GROUP, Policy, PolicyCheck, PolicyFactory
from rldg_core.policy_checks import check_spec
from rldg_core.task import Task


def _entry_points(group: str = ENTRY_POINT_GROUP) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def backends() -> list[str]:
    """Return the names of the installed back-ends, sorted."""
    return sorted(_entry_points())


def _entry_point(backend: str) -> EntryPoint:
    entry = _entry_points().get(backend)
    if entry is None:
        known = ", ".join(backends()) or "none installed"
        raise UserError(f"unknown policy back-end {quoted(backend)}, expected one of {known}")
    return entry


def factory(backend: str) -> PolicyFactory:
    """Import a back-end (and with it torch or jax). Raises UserError listing the installed ones."""
    entry = _entry_point(backend)
    try:
        return cast(PolicyFactory, entry.load())
    except Exception as error:  # a back-end is a plug-in: whatever its module raises becomes the answer
        raise UserError(f"policy back-end {backend!r} ({entry.value}) cannot be imported: {cause(error)}") from error


def check_backend(backend: str) -> None:
    """Raise UserError when a back-end is unknown or its module is missing; the module itself is not imported."""
    entry = _entry_point(backend)
    try:
        found = find_spec(entry.module)
    except Exception as error:  # of the packages above the module
        raise UserError(f"policy back-end {backend!r} ({entry.value}) cannot be imported: {cause(error)}") from error
    if found is None:
        raise UserError(f"policy back-end {backend!r} ({entry.value}): no module {entry.module}")


def check_before_start(backend: str, path: Path | None, task: Task) -> None:
    """Raise UserError for faults of a policy found without importing it (entry points `rldg.policy_checks`)."""
    check_backend(backend)
    check = _entry_points(CHECK_GROUP).get(backend)
    if check is not None:
        cast(PolicyCheck, check.load())(backend, path, task)


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
