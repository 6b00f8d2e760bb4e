"""rldg.json: what a generalist's checkpoint expects to see and which statistics its actions belong to.

Our fine-tuning writes it; `rldg checkpoint adopt` writes it for a checkpoint that was trained elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import read_json, write_json
from rldg_core.task import Task

MANIFEST_FILE = "rldg.json"

Backend = Literal["compact", "openvla", "octo"]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]


class Manifest(BaseModel):
    """Content of rldg.json.

    tasks: names of the tasks in the data (empty: any); camera: which image of the observation is seen; image_size:
    side of that image [px]; window: observations per inference; horizon: actions per inference; rate_hz: inferences
    per second; statistics_key: entry of dataset_statistics.json; statistics_sha256: of that file's bytes; version:
    optimiser steps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["rldg-generalist-1"] = "rldg-generalist-1"
    backend: Backend
    tasks: tuple[Name, ...] = ()
    camera: Name = "wrist"
    image_size: Count
    window: Count
    horizon: Count
    rate_hz: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    statistics_key: Name
    statistics_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    version: Annotated[int, Field(ge=0)]


def read_manifest(folder: Path) -> Manifest | None:
    """Manifest of a checkpoint folder; None when it has none. Raises UserError on one that is malformed."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object")
    return validated(Manifest, data, str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write rldg.json into a folder that exists, atomically."""
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))


def check_backend(folder: Path, manifest: Manifest | None, backend: Backend) -> None:
    """Raise UserError when the checkpoint is one of another back-end."""
    if manifest and manifest.backend != backend:
        raise UserError(f"{folder / MANIFEST_FILE}: backend: a checkpoint of {manifest.backend}, not of {backend}")


def check_task(folder: Path, manifest: Manifest | None, task: Task) -> None:
    """Raise UserError when the checkpoint's data holds other tasks only."""
    if manifest and manifest.tasks and task.name not in manifest.tasks:
        made_for = ", ".join(map(repr, manifest.tasks))
        raise UserError(f"{folder}: made for task {made_for}, this stack runs {task.name!r}")
