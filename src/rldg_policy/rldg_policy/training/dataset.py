"""A dataset checked for training, with what the manifest of a checkpoint says about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rldg_core.errors import UserError
from rldg_core.files import open_regular, sha256_hex
from rldg_core.instructions import check_instruction
from rldg_data.episodes import provenance
from rldg_data.lint import lint
from rldg_data.plausibility import Limits, usual_period_s
from rldg_data.rlds import IMAGE_KEY, Dataset, Episode, read_dataset
from rldg_data.rlds.layout import shard_name
from rldg_policy.checkpoint.manifest import Manifest, ObservationRecord, View
from rldg_policy.checkpoint.statistics import STATISTICS_FILE, ActionStatistics

SPLIT = "train"


@dataclass(frozen=True)
class TrainingSet:
    """A dataset and its metadata.

    name: statistics key of checkpoints; statistics: of the dataset; statistics_json: content of a checkpoint's
    dataset_statistics.json; sha256: of all data files; tasks: names, sorted; instructions: sorted; camera: the one that
    took the images; made_of: task -> how it was recorded; actions: action statistics; episodes, transitions: in split
    `train`, with an action; image_size: shorter side [px]; rate_hz: steps per second.
    """

    dataset: Dataset
    name: str
    statistics: Mapping[str, Any]
    statistics_json: bytes
    sha256: str
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]
    camera: str
    made_of: Mapping[str, ObservationRecord]
    actions: ActionStatistics
    episodes: int
    transitions: int
    image_size: int
    rate_hz: float

    def manifest(self, backend: str, version: int, **more: Any) -> Manifest:
        """Return the manifest of a checkpoint trained on the data. more: image_size, window, horizon, inference_hz."""
        return Manifest(
            backend=backend,
            tasks=self.tasks,
            camera=self.camera,
            rate_hz=self.rate_hz,
            made_of=dict(self.made_of),
            dataset_sha256=self.sha256,
            statistics_key=self.name,
            statistics_sha256=sha256_hex(self.statistics_json),
            version=version,
            **more,
        )


def open_training_set(path: Path, camera: str | None = None) -> TrainingSet:
    """Open `<root>/<name>/<version>` and read every episode once.

    camera: the one that took the images, for a dataset that does not say it. Raises UserError when the dataset cannot
    be read, has lint errors (`rldg dataset lint`), has no step with an action, has episodes of different cameras or
    rates, does not say its camera, or has an invalid instruction.
    """
    dataset = read_dataset(path)
    if IMAGE_KEY not in dataset.image_sizes:
        raise UserError(f"{path}: no image {IMAGE_KEY!r}, it has {', '.join(dataset.image_sizes)}")
    errors = [finding for finding in lint(path) if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more: `rldg dataset lint {path}`)" if len(errors) > 1 else ""
        raise UserError(f"{path}: not fit for training: {errors[0]}{more}")
    tasks: set[str] = set()
    instructions: set[str] = set()
    rates_hz: list[float] = []
    recorded = ObservationRecords(path)
    transitions = 0
    for episode in dataset.episodes(SPLIT):
        if len(episode) > 1:
            tasks.add(str(episode.metadata["task"]))
            instructions.add(episode.instruction)
            rates_hz.append(1 / usual_period_s(episode.timestamp_s, Limits()))
            recorded.add(episode)
            transitions += len(episode) - 1
    if not transitions:
        raise UserError(f"{path}: split {SPLIT!r} has no step with an action")
    for instruction in instructions:
        check_instruction(instruction)
    statistics = json.dumps({dataset.name: dataset.statistics}, indent=2).encode()
    return TrainingSet(
        dataset=dataset,
        name=dataset.name,
        statistics=dataset.statistics,
        statistics_json=statistics,
        sha256=content_sha256(dataset),
        tasks=tuple(sorted(tasks)),
        instructions=tuple(sorted(instructions)),
        camera=recorded.camera(camera),
        made_of=recorded.made_of,
        actions=ActionStatistics.read(dataset.statistics.get("action", {}), str(path / STATISTICS_FILE)),
        episodes=len(rates_hz),
        transitions=transitions,
        image_size=min(dataset.image_sizes[IMAGE_KEY]),
        rate_hz=round(float(np.median(rates_hz)), 3),
    )


class ObservationRecords:
    """Collects the recording metadata of a dataset (`rldg_data.episodes.provenance`) episode by episode."""

    def __init__(self, path: Path) -> None:
        self.made_of: dict[str, ObservationRecord] = {}
        self._path = path
        self._cameras: dict[str, str] = {}

    def add(self, episode: Episode) -> None:
        """Add an episode. Raises UserError when its camera, or within its task its view or gripper, differs."""
        task, name = str(episode.metadata["task"]), str(episode.metadata["episode_id"])
        try:
            parts = provenance.parts(episode.metadata)
            seen = [part["images"][IMAGE_KEY] for part in parts if "images" in part]
            views = [View.model_validate(one["view"]) for one in seen if one["view"]]
            gripper = any(bool(part["gripper"]) for part in parts if "images" in part)
        except (KeyError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{self._path}: episode {name}: provenance.images: not written by this suite: {reason}"
            ) from error
        for one in seen:
            self._cameras.setdefault(str(one["camera"]), name)
        if len(self._cameras) > 1:
            shown = ", ".join(f"{camera!r} (episode {of})" for camera, of in self._cameras.items())
            raise UserError(f"{self._path}: images {IMAGE_KEY!r} of different cameras: {shown}: make a dataset of each")
        if not seen or len(seen) < len(parts):
            return
        known = self.made_of.setdefault(task, ObservationRecord(view=views[0] if views else None, gripper=gripper))
        if known.gripper != gripper:
            raise UserError(
                f"{self._path}: task {task}: episode {name} has {6 + gripper} values in its actions, others "
                f"{7 - gripper}: make a dataset of each"
            )
        if other := next((view for view in views if view != known.view), None):
            raise UserError(
                f"{self._path}: task {task}: images of camera {seen[0]['camera']!r} show {known.view}, "
                f"in episode {name} {other}: make a dataset of each"
            )

    def camera(self, given: str | None) -> str:
        """Return the camera. Raises UserError when neither recordings nor `given` name it, or when they differ."""
        found = next(iter(self._cameras), None)
        if found is None and given is None:
            raise UserError(f"{self._path}: no camera in its recording metadata: name it with --camera")
        if found and given and found != given:
            raise UserError(f"{self._path}: its images are from camera {found!r}, not from {given!r}")
        return found or str(given)


def content_sha256(dataset: Dataset) -> str:
    """Return the SHA-256 of the dataset's stored episodes and statistics; it does not depend on the folder."""
    digest = hashlib.sha256(json.dumps(dataset.statistics, sort_keys=True).encode())
    for split, lengths in sorted(dataset.shard_lengths.items()):
        for index in range(len(lengths)):
            name = shard_name(dataset.name, split, index, len(lengths))
            with open_regular(dataset.path / name) as file:
                digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    return digest.hexdigest()
