"""Checkpoint folder: config.json, model.safetensors, dataset_statistics.json, training.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from rldg_core.errors import UserError
from rldg_core.files import read_json, sha256_hex, write_json, writing_aside
from rldg_policy.compact.config import CheckpointConfig, ModelConfig
from rldg_policy.compact.model import CompactModel
from rldg_policy.compact.tokenize import ActionStatistics


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    config: CheckpointConfig
    model: CompactModel
    statistics: ActionStatistics


def write_checkpoint(
    folder: Path,
    model: CompactModel,
    task: str,
    statistics_key: str,
    statistics: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """Write the folder; it appears when it is complete. `version` is the number of training steps."""
    data = save({name: value.contiguous() for name, value in model.state_dict().items()})
    config = CheckpointConfig(
        task=task,
        statistics_key=statistics_key,
        version=int(training["steps"]),
        weights_sha256=sha256_hex(data),
        model=model.config,
    )
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / "model.safetensors").write_bytes(data)
        write_json(aside / "config.json", config.model_dump(mode="json"))
        write_json(aside / "dataset_statistics.json", {statistics_key: statistics})
        write_json(aside / "training.json", training)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a folder. Raises UserError `file: reason` on the first thing that is wrong."""
    config_path = folder / "config.json"
    try:
        config = CheckpointConfig.model_validate(read_json(config_path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{config_path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    statistics_path = folder / "dataset_statistics.json"
    statistics = read_json(statistics_path)
    if not isinstance(statistics, dict) or config.statistics_key not in statistics:
        raise UserError(f"{statistics_path}: no statistics for {config.statistics_key!r}, which config.json names")
    entry = statistics[config.statistics_key]
    actions = ActionStatistics.read(entry.get("action", {}) if isinstance(entry, dict) else {}, str(statistics_path))
    return Checkpoint(config, _read_model(folder / "model.safetensors", config.weights_sha256, config.model), actions)


def _read_model(path: Path, sha256: str, config: ModelConfig) -> CompactModel:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    if sha256_hex(data) != sha256:
        raise UserError(f"{path}: sha256 does not match config.json: the weights are damaged or of another checkpoint")
    model = CompactModel(config)
    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: does not fit config.json: {reason[:200]}") from error
    model.eval()
    return model
