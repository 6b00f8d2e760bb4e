"""Policies by name: the entry points of group `rldg.policies`, found without importing any of them."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import cast

from rldg_core.errors import UserError
from rldg_core.policy import ENTRY_POINT_GROUP, Policy, PolicyFactory
from rldg_core.policy_checks import check_spec
from rldg_core.task import Task


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def backends() -> list[str]:
    """Names that can be loaded, sorted."""
    return sorted(_entry_points())


def factory(backend: str) -> PolicyFactory:
    """Import a back-end (this is where torch or jax gets imported). Raises UserError listing what exists."""
    entry = _entry_points().get(backend)
    if entry is None:
        known = ", ".join(backends()) or "none installed"
        raise UserError(f"unknown policy back-end {backend!r}, expected one of {known}")
    try:
        return cast(PolicyFactory, entry.load())
    except (ImportError, AttributeError) as error:
        raise UserError(f"policy back-end {backend!r} ({entry.value}) cannot be imported: {error}") from error


def load_policy(
    policy_id: str, backend: str, path: Path | None, explore: bool, task: Task, paced: bool = True
) -> Policy:
    """Import, construct, check and warm a policy. Touches no shared state, so any thread may call it.

    paced: as for `check_spec`. Raises UserError with one line, whatever the back-end raised.
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
    except Exception as error:  # a back-end is a plug-in: whatever it raises becomes the answer
        raise UserError(f"policy {policy_id!r}: back-end {backend} failed to load: {one_line(error)}") from error
    return policy


def one_line(error: BaseException) -> str:
    """Type and first line of an exception; of a UserError its message."""
    text = str(error).splitlines()
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {text[0] if text else ''}"
