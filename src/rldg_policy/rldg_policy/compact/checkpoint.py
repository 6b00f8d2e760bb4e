"""Checkpoint folder: config.json, model.safetensors, dataset_statistics.json, rldg.json, training.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import read_bytes, sha256_hex, write_json, writing_aside
from rldg_policy.checkpoint.manifest import (
    MANIFEST_FILE,
    Manifest,
    check_backend,
    read_manifest,
    read_object,
    write_manifest,
)
from rldg_policy.checkpoint.statistics import STATISTICS_FILE, ActionStatistics, choose_statistics
from rldg_policy.compact.config import CheckpointConfig, ModelConfig
from rldg_policy.compact.model import CompactModel, random_model
from rldg_policy.training.run import TRAINING_FILE
from rldg_policy.training.torch_state import check_finite

WEIGHTS_FILE = "model.safetensors"
RANDOM_ACTION = [0.0015] * 3 + [0.01] * 3
"""Largest actions of a random checkpoint [m, rad]: a tenth of the insertion task's scale."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    model: CompactModel
    manifest: Manifest
    statistics: ActionStatistics


def write_checkpoint(
    folder: Path,
    model: CompactModel,
    statistics_json: bytes,
    manifest: Manifest,
    training: Mapping[str, Any],
) -> None:
    """Write a checkpoint folder atomically. training: content of training.json.

    Raises UserError when a weight is not finite; an existing folder is then unchanged.
    """
    check_finite(f"{folder}: not written", model.state_dict().items())
    data = save({name: value.contiguous() for name, value in model.state_dict().items()})
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / WEIGHTS_FILE).write_bytes(data)
        (aside / STATISTICS_FILE).write_bytes(statistics_json)
        described = CheckpointConfig(weights_sha256=sha256_hex(data), model=model.config)
        write_json(aside / "config.json", described.model_dump(mode="json"))
        write_json(aside / TRAINING_FILE, training)
        write_manifest(aside, manifest)


def write_random(folder: Path, config: ModelConfig, seed: int) -> None:
    """Write a valid checkpoint with random weights and small actions, for any task."""
    high = [*RANDOM_ACTION, 1.0]
    action = {
        "mean": [0.0] * 7,
        "std": high,
        "min": [-v for v in high[:6]] + [0.0],
        "max": high,
        "q01": [-v for v in high[:6]] + [0.0],
        "q99": high,
        "mask": [True] * 6 + [False],
    }
    statistics = json.dumps({"random": {"action": action}}).encode()
    manifest = Manifest(
        backend="compact",
        camera=config.camera,
        image_size=config.image_size,
        window=config.window,
        horizon=config.horizon,
        rate_hz=10.0,
        statistics_key="random",
        statistics_sha256=sha256_hex(statistics),
        version=0,
    )
    write_checkpoint(folder, random_model(config, seed), statistics, manifest, {"steps": 0, "seed": seed})


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and validate a checkpoint folder. Raises UserError `file: reason` on the first error."""
    path = folder / "config.json"
    raw = read_object(path)
    manifest = read_manifest(folder)
    check_backend(folder, manifest, "compact")
    config = validated(CheckpointConfig, raw, str(path))
    if manifest is None:
        raise UserError(f"{folder / MANIFEST_FILE}: missing: not a complete checkpoint of the compact generalist")
    for name in ("camera", "image_size", "window", "horizon"):
        if getattr(manifest, name) != getattr(config.model, name):
            raise UserError(f"{folder / MANIFEST_FILE}: {name} differs from that of config.json")
    _, statistics = choose_statistics(folder, manifest)
    return Checkpoint(_read_model(folder / WEIGHTS_FILE, config.weights_sha256, config.model), manifest, statistics)


def _read_model(path: Path, sha256: str, config: ModelConfig) -> CompactModel:
    data = read_bytes(path)
    if sha256_hex(data) != sha256:
        raise UserError(
            f"{path}: sha256 does not match config.json: the weights are damaged or from another checkpoint"
        )
    model = random_model(config, 0)
    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: does not fit config.json: {reason[:200]}") from error
    check_finite(path, model.state_dict().items())
    model.eval()
    return model
