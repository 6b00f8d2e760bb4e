"""A dataset that a generalist may learn from: it is clean, and it knows what a checkpoint must say about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rldg_core.errors import UserError
from rldg_data.lint import lint
from rldg_data.rlds import IMAGE_KEY, Dataset, read_dataset
from rldg_policy.checkpoint.statistics import STATISTICS_FILE, ActionStatistics

SPLIT = "train"


@dataclass(frozen=True)
class TrainingSet:
    """name: statistics key of checkpoints; statistics: the dataset's own; statistics_json: bytes of a checkpoint's
    dataset_statistics.json; tasks: names, sorted; actions: the statistics of the actions; episodes, transitions: of
    split train that have an action; image_size: shorter side [px]; rate_hz: steps per second."""

    dataset: Dataset
    name: str
    statistics: Mapping[str, Any]
    statistics_json: bytes
    tasks: tuple[str, ...]
    actions: ActionStatistics
    episodes: int
    transitions: int
    image_size: int
    rate_hz: float


def open_training_set(path: Path) -> TrainingSet:
    """Open `<root>/<name>/<version>` and look at every episode once.

    Raises UserError when it cannot be read, has findings of severity error (`rldg dataset lint`), or no step with
    an action.
    """
    dataset = read_dataset(path)
    if IMAGE_KEY not in dataset.image_sizes:
        raise UserError(f"{path}: no image {IMAGE_KEY!r}, it has {', '.join(dataset.image_sizes)}")
    errors = [finding for finding in lint(path) if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: `rldg dataset lint {path}`)" if len(errors) > 1 else ""
        raise UserError(f"{path}: not fit for training: {errors[0]}{more}")
    tasks: set[str] = set()
    periods_s: list[float] = []
    transitions = 0
    for episode in dataset.episodes(SPLIT):
        if len(episode) > 1:
            tasks.add(str(episode.metadata["task"]))
            periods_s.append(float(np.median(np.diff(episode.timestamp_s))))
            transitions += len(episode) - 1
    if not transitions:
        raise UserError(f"{path}: split {SPLIT!r} has no step with an action")
    statistics = json.dumps({dataset.name: dataset.statistics}, indent=2).encode()
    return TrainingSet(
        dataset=dataset,
        name=dataset.name,
        statistics=dataset.statistics,
        statistics_json=statistics,
        tasks=tuple(sorted(tasks)),
        actions=ActionStatistics.read(dataset.statistics.get("action", {}), str(path / STATISTICS_FILE)),
        episodes=len(periods_s),
        transitions=transitions,
        image_size=min(dataset.image_sizes[IMAGE_KEY]),
        rate_hz=round(1 / float(np.median(periods_s)), 3),
    )
