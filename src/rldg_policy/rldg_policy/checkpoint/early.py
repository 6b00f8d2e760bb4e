"""Checks of a checkpoint without importing torch or jax: entry points `rldg.policy_checks` (rldg_core.policy)."""

from __future__ import annotations

from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_core.policy import PolicySpec
from rldg_core.policy_checks import check_spec
from rldg_core.task import Task
from rldg_policy.checkpoint.manifest import (
    MANIFEST_FILE,
    check_backend,
    check_task,
    manifest_spec,
    read_manifest,
)
from rldg_policy.checkpoint.statistics import check_scale, choose_statistics
from rldg_policy.generalist import find_generalist


def no_checkpoint(backend: str, path: Path | None, task: Task) -> None:
    """Raise UserError for a checkpoint of a back-end that reads none."""
    if path is not None:
        raise UserError(f"policy {backend} takes no checkpoint, got {path}: name the back-end that wrote it")


def check_generalist(backend: str, path: Path | None, task: Task) -> None:
    """Raise UserError unless configuration, manifest and statistics of a checkpoint fit the back-end and the task."""
    if path is None:
        raise UserError(f"policy {backend}: path: expected a checkpoint folder")
    config = path / "config.json"
    if not isinstance(read_json(config), dict):
        raise UserError(f"{config}: expected a JSON object")
    manifest = read_manifest(path)
    generalist = find_generalist(backend)
    if manifest is None and generalist.describe is None:
        raise UserError(f"{path / MANIFEST_FILE}: missing: not a complete checkpoint of {generalist.title}")
    check_backend(path, manifest, backend)
    check_task(path, manifest, task)
    _, statistics = choose_statistics(path, manifest)
    check_scale(path, statistics, task)
    check_spec(backend, manifest_spec(manifest, task) if manifest else _spec_without_rate(task), task)


def _spec_without_rate(task: Task) -> PolicySpec:
    """Return the specification of a checkpoint that does not say at which rate its data were recorded."""
    return PolicySpec((), 0, 1, task.action.dim, 1, task.rates.control_hz, control_rates_hz=())
