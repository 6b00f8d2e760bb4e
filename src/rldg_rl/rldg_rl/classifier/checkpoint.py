"""Reads and writes a `classifier` folder: config.json, head.safetensors and errors.png."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rldg_core.configuration import first_mistake
from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex, write_json, writing_aside
from rldg_core.task import BoxConfig, Task
from rldg_rl.classifier.model import ClassifierConfig, Tensors, shapes
from rldg_rl.weights import pack, unpack

CONFIG_FILE, HEAD_FILE, SHEET_FILE = "config.json", "head.safetensors", "errors.png"


@dataclass(frozen=True)
class SavedClassifier:
    """Content of a classifier folder. objects: those of the training data; report: counts and metrics, as JSON."""

    config: ClassifierConfig
    tensors: Tensors
    features: int
    temperature: float
    threshold: float
    task: str
    task_hash: str
    encoder_sha256: str
    objects: tuple[str, ...]
    success_box: BoxConfig | None
    report: Mapping[str, Any]


def view_hash(task: Task, camera: str) -> str:
    """Return a hash of the task's name and of the crop, size and quality of its camera."""
    view = task.cameras[camera].model_dump(mode="json", exclude={"topic"})
    return sha256_hex(json.dumps([task.name, camera, view], sort_keys=True).encode())[:16]


def write_classifier(folder: Path, saved: SavedClassifier, sheet_png: bytes) -> None:
    """Write the folder atomically."""
    head = pack(saved.tensors)
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / HEAD_FILE).write_bytes(head)
        (aside / SHEET_FILE).write_bytes(sheet_png)
        write_json(
            aside / CONFIG_FILE,
            {
                "task": saved.task,
                "task_hash": saved.task_hash,
                "objects": list(saved.objects),
                "encoder_sha256": saved.encoder_sha256,
                "sha256": sha256_hex(head),
                "features": saved.features,
                "temperature": saved.temperature,
                "threshold": saved.threshold,
                "success_box": saved.success_box.model_dump(mode="json") if saved.success_box else None,
                "config": saved.config.model_dump(mode="json"),
                "report": dict(saved.report),
            },
        )


def read_classifier(folder: Path) -> SavedClassifier:
    """Read and verify. Raises UserError naming the file on anything missing or altered."""
    path = folder / CONFIG_FILE
    value = read_json(path)
    try:
        config = ClassifierConfig.model_validate(value["config"])
        digest, features = str(value["sha256"]), int(value["features"])
        data = read_bytes(folder / HEAD_FILE)
        if sha256_hex(data) != digest:
            raise UserError(f"{folder / HEAD_FILE}: SHA-256 differs from the one in {CONFIG_FILE}: file damaged")
        box = value["success_box"] and BoxConfig.model_validate(value["success_box"])
        tensors = unpack(data, shapes(features, config.hidden), str(folder / HEAD_FILE))
        temperature, threshold = float(value["temperature"]), float(value["threshold"])
        if not (0 < temperature < math.inf and 0 <= threshold <= 1):
            raise ValueError(f"temperature {temperature}, threshold {threshold}")
        return SavedClassifier(
            config, tensors, features, temperature, threshold, str(value["task"]),
            str(value["task_hash"]), str(value["encoder_sha256"]), tuple(value["objects"]), box, dict(value["report"]),
        )  # fmt: skip
    except ValidationError as error:
        raise UserError(f"{path}: config: {first_mistake(error)[1]}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a classifier's configuration: {error!r}") from error


def check_task(saved: SavedClassifier, task: Task, camera: str, where: str) -> None:
    """Raises UserError when the classifier was trained on another task or another view of it."""
    if saved.task != task.name:
        raise UserError(f"{where}: classifier of task {saved.task!r}, not of {task.name!r}")
    if saved.task_hash != view_hash(task, camera):
        raise UserError(f"{where}: trained on another crop, size or quality of camera {camera!r} of task {task.name}")


def check_encoder(saved: SavedClassifier, weights_sha256: str, where: str) -> None:
    """Raises UserError when the frozen encoder is not the one that the head was trained on."""
    if saved.encoder_sha256 != weights_sha256:
        raise UserError(
            f"{where}: trained on encoder {saved.config.encoder} {saved.encoder_sha256[:12]}, "
            f"this one is {weights_sha256[:12]}: train the classifier again"
        )


def camera_of(config: ClassifierConfig, task: Task) -> str:
    """Return the camera of a classifier. Raises UserError when the task has none of that name."""
    camera = config.camera or next(iter(task.cameras))
    if camera not in task.cameras:
        raise UserError(f"task {task.name}: no camera {camera!r}, which the classifier's configuration names")
    return camera
