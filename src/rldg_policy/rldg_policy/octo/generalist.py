"""Octo as `rldg finetune octo` and `rldg checkpoint adopt --backend octo` find it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from rldg_core.errors import UserError
from rldg_core.files import read_bytes
from rldg_policy.checkpoint.manifest import read_object
from rldg_policy.generalist import Generalist
from rldg_policy.octo.config import OctoTrainConfig

_NDARRAY = 1
"""Extension type of arrays in flax's msgpack."""


def describe(folder: Path) -> dict[str, Any]:
    """Return what an upstream checkpoint's own files say, as members of Manifest. Raises UserError naming the file."""
    path = folder / "config.json"
    config = read_object(path)
    try:
        horizon = config["model"]["heads"]["action"]["kwargs"]["action_horizon"]
        window = config["window_size"]
    except (LookupError, TypeError) as error:
        raise UserError(f"{path}: not an Octo configuration: {error} is missing") from error
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    if not steps:
        raise UserError(f"{folder}: no folder <step>/ with weights")
    return {"image_size": _image_size(folder), "window": window, "horizon": horizon, "version": max(steps)}


def _image_size(folder: Path) -> int:
    """Side of the primary image in example_batch.msgpack (flax: arrays are extension 1, shape first)."""
    path = folder / "example_batch.msgpack"

    def shape(code: int, data: bytes) -> Any:
        return msgpack.unpackb(data, strict_map_key=False)[0] if code == _NDARRAY else None  # bounded: by its length

    try:
        batch = msgpack.unpackb(read_bytes(path), ext_hook=shape, strict_map_key=False)  # bounded: by its length
        return int(batch["observation"]["image_primary"][2])
    except (ValueError, LookupError, TypeError, msgpack.UnpackException) as error:
        raise UserError(f"{path}: no observation/image_primary in it: {error}") from error


def _recognises(config: Mapping[str, Any]) -> bool:
    return isinstance(config.get("model"), dict) and "observation_tokenizers" in config["model"]


OCTO = Generalist(
    title="Octo",
    help="Fine-tune Octo as RLDG does: the wrist image in the primary tokenizer, all parameters but the text encoder.",
    config=OctoTrainConfig,
    finetune="rldg_policy.octo.train:finetune",
    training_state=("state.safetensors",),
    base="Checkpoint to fine-tune: a folder of Octo 1.5.",
    recognises=_recognises,
    describe=describe,
)
