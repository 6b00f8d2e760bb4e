"""Back-ends by name: the entry points of group `rldg.policies`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import cast

from rldg_core.errors import UserError
from rldg_core.policy import ENTRY_POINT_GROUP, PolicyFactory


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
