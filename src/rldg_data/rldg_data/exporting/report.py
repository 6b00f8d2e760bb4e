"""Check a plan before an export and report its result, for all formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_data.episodes.provenance import ObservationRecord
from rldg_data.plan import SPLITS, Plan, is_valid_name, is_valid_version

REPORT_FILE = "export_report.json"

Progress = Callable[[int, int], None]
"""(episodes done, total episodes); called often, also without progress, and may raise to cancel."""


@dataclass(frozen=True)
class ExportResult:
    """Result of an export.

    episodes: per split; steps: last ones included; left_out: reason -> bags, from the recipe's filters; bad: (bag,
    reason) skipped by skip_bad; resumed: episodes already written by an earlier, killed export.
    """

    path: Path
    episodes: Mapping[str, int]
    steps: int
    left_out: Mapping[str, int]
    bad: tuple[tuple[Path, str], ...]
    resumed: int


def check_plan(plan: Plan, workers: int) -> None:
    """Check that the plan can be written in any format. Raises UserError."""
    if not is_valid_name(plan.name):
        raise UserError(
            f"dataset name {plan.name!r}: expected lower-case letters, digits and _, starting with a letter"
        )
    if not is_valid_version(plan.version):
        raise UserError(f"dataset version {plan.version!r}: expected MAJOR.MINOR.PATCH, e.g. 1.0.0")
    if workers < 1:
        raise UserError(f"workers {workers}: expected at least 1")
    for episode in plan.episodes:
        if episode.split not in SPLITS:
            raise UserError(f"{episode.name}: split {episode.split!r}, expected one of {', '.join(SPLITS)}")
        for key, _ in episode.cameras:
            if not is_valid_name(key):
                raise UserError(f"dataset {plan.name}: image key {key!r}: expected lower-case letters, digits and _")
    if not any(episode.split == "train" for episode in plan.episodes):
        raise UserError(f"dataset {plan.name}: no episode in split train")


def report(
    plan: Plan,
    episodes: Mapping[str, int],
    steps: int,
    bad: Sequence[tuple[Path, str]],
    made_of: ObservationRecord,
    tasks: Sequence[str],
) -> dict[str, Any]:
    """Content of REPORT_FILE. episodes, steps, bad: as in ExportResult; made_of, tasks: of all episodes."""
    return {
        "tasks": sorted(tasks),
        "rate_hz": made_of.rate_hz,
        "cameras": dict(made_of.cameras),
        "episodes": dict(episodes),
        "steps": steps,
        "left_out": dict(plan.left_out),
        "bad": [{"bag": str(bag), "reason": reason} for bag, reason in bad],
        "recipe": json.loads(plan.recipe) if plan.recipe else None,  # bounded: our own text
    }
