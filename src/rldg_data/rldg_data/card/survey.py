"""What a dataset's card says, gathered in one pass in memory that does not grow with the frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_data.episodes import provenance
from rldg_data.episodes.episode import ACTION_DIM, IMAGE_KEY, STATE_DIM, Episode
from rldg_data.rlds import Dataset
from rldg_data.rlds.statistics import read_columns

BINS = 60
SAMPLES, FRAMES = 6, 7
"""Episodes and frames of each on the contact sheet."""


@dataclass
class Survey:
    """edges (7, BINS + 1), histogram (7, BINS): of the transitions' actions; lengths: transitions per episode;
    samples: (title, JPEG files over time) of some episodes.
    """

    edges: NDArray[np.float64]
    histogram: NDArray[np.int64] = field(default_factory=lambda: np.zeros((ACTION_DIM, BINS), np.int64))
    lengths: list[int] = field(default_factory=list)
    samples: list[tuple[str, list[bytes]]] = field(default_factory=list)
    objects: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    policies: Counter[tuple[str, int]] = field(default_factory=Counter)
    instructions: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    relabelled: Counter[str] = field(default_factory=Counter)
    configs: set[str] = field(default_factory=set)
    successes: int = 0
    stitched: int = 0
    duration_s: float = 0.0

    @property
    def transitions(self) -> int:
        """In all episodes."""
        return sum(self.lengths)

    @property
    def rate_hz(self) -> float:
        """Transitions per second of the recordings."""
        return self.transitions / self.duration_s if self.duration_s else float("nan")

    def add(self, split: str, episode: Episode, sampled: bool) -> None:
        """Take one episode. Raises ValueError when its provenance is not of the form that `build` gives it."""
        data = episode.metadata
        self.lengths.append(len(episode) - 1)
        self.duration_s += float(episode.timestamp_s[-1] - episode.timestamp_s[0])
        for axis in range(ACTION_DIM):
            edges = self.edges[axis]
            values = np.clip(np.nan_to_num(episode.action[:-1, axis]), edges[0], edges[-1])
            self.histogram[axis] += np.histogram(values, edges)[0]
        self.objects[split, data["object"]] += 1
        self.sources[split, data["source"]] += 1
        self.tasks[split, data["task"]] += 1
        self.policies[data["policy_id"], data["policy_version"]] += 1
        self.instructions[episode.instruction] += 1
        self.configs.add(data["config_hash"])
        self.successes += bool(data["success"])
        self._add_provenance(data)
        if sampled:
            chosen = np.linspace(0, len(episode) - 1, FRAMES).round().astype(int).tolist()
            title = f"{split}: {data['object']}, {data['source']}, {len(episode) - 1} transitions"
            self.samples.append((title, [episode.images[IMAGE_KEY][i] for i in chosen]))

    def _add_provenance(self, metadata: Mapping[str, Any]) -> None:
        parts = provenance.parts(metadata)
        self.stitched += len(parts) > 1
        for part in parts:
            self.folders[part["bag"].rpartition("/")[0] or part["bag"]] += 1
            by = part.get("relabelled_by")
            if by:
                name = "; ".join(f"{key} {value}" for key, value in by.items()) if isinstance(by, Mapping) else str(by)
                self.relabelled[name] += 1


def survey(dataset: Dataset) -> Survey:
    """Read all splits. The action's histograms span its stored minimum and maximum."""
    seen = Survey(_edges(dataset))
    for split, count in dataset.splits.items():
        share = max(1, round(SAMPLES * count / len(dataset)))
        sampled = set(np.linspace(0, count - 1, share).round().astype(int).tolist())
        for number, episode in enumerate(dataset.episodes(split)):
            try:
                seen.add(split, episode, number in sampled)
            except ValueError as error:
                raise UserError(f"{dataset.path}: {split} {number}: {error}") from error
    return seen


def _edges(dataset: Dataset) -> NDArray[np.float64]:
    columns = action_and_state(dataset)[0]
    low, high = columns["min"], columns["max"]
    # A constant dimension gets a bin in the middle; the gripper has its own range.
    low, high = np.where(high > low, low, low - 0.5), np.where(high > low, high, high + 0.5)
    low[-1], high[-1] = -0.05, 1.05
    return np.linspace(low, high, BINS + 1, axis=1)


def action_and_state(dataset: Dataset) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Stored statistics of actions and states. Raises UserError where they are not there or are broken."""
    file = dataset.path / "dataset_statistics.json"
    found = []
    for key, dim in (("action", ACTION_DIM), ("proprio", STATE_DIM)):
        stored = dataset.statistics.get(key)
        if not isinstance(stored, dict) or not {"min", "max"} <= stored.keys():
            raise UserError(f"{file}: no min and max of {key}")
        found.append(read_columns(stored, dim, f"{file}: {key}"))
    return found[0], found[1]
