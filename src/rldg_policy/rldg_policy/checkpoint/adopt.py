"""Checkpoints that were trained elsewhere: what they say about themselves, and the manifest that says the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex, write_bytes
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import (
    STATISTICS_FILE,
    UNNAMED_KEY,
    action_statistics,
    choose_statistics,
    read_entries,
)

Foreign = Literal["openvla", "octo"]
INFERENCE_HZ: Mapping[Foreign, float | None] = {"openvla": 4.0, "octo": None}
"""Of the paper's deployments; None: one per control step."""
_NDARRAY = 1
"""Extension type of arrays in flax's msgpack."""


def adopt(folder: Path, backend: Foreign, statistics_key: str, options: Mapping[str, Any]) -> Manifest:
    """Write rldg.json into an upstream checkpoint and return it; the checkpoint's own files stay as they are.

    options: members of Manifest that only its user knows (camera, rate_hz: both needed; inference_hz, tasks), or that
    may be less than the checkpoint's configuration says (window). An OpenVLA checkpoint with its statistics in
    config.json alone also gets a dataset_statistics.json. Raises UserError when the folder is no checkpoint of the
    back-end, has a manifest already, or lacks the key.
    """
    if (folder / MANIFEST_FILE).exists():
        raise UserError(f"{folder / MANIFEST_FILE}: there already; remove it to adopt the checkpoint anew")
    described = _DESCRIBE[backend](folder)
    path, entries = read_entries(folder)
    if set(entries) == {UNNAMED_KEY}:
        entries = {statistics_key: entries[UNNAMED_KEY]}  # one entry without a name: the user names it
    action_statistics(entries, statistics_key, path)
    in_place = path.name == STATISTICS_FILE
    data = read_bytes(path) if in_place else json.dumps(entries, indent=2).encode()
    values = {
        "backend": backend,
        "inference_hz": INFERENCE_HZ[backend],
        "statistics_key": statistics_key,
        "statistics_sha256": sha256_hex(data),
        **described,
        **options,
    }
    manifest = validated(Manifest, values, str(folder / MANIFEST_FILE))
    if not in_place:
        write_bytes(folder / STATISTICS_FILE, data)
    write_manifest(folder, manifest)
    return manifest


def describe(folder: Path) -> dict[str, Any]:
    """What a checkpoint expects: its manifest and the reach of its actions; without a manifest the keys to choose from.

    Raises UserError when the folder holds neither manifest nor statistics, or when they do not fit.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        _, entries = read_entries(folder)
        return {"path": str(folder), "adopted": False, "statistics_keys": sorted(entries)}
    _, statistics = choose_statistics(folder, manifest)
    low, high = statistics.need("q01"), statistics.need("q99")
    reach = np.maximum(np.abs(low), np.abs(high))
    return {
        "path": str(folder),
        "adopted": True,
        **manifest.model_dump(mode="json"),
        "largest_step_m": float(reach[:3].max()),
        "largest_step_rad": float(reach[3:6].max()),
        "gripper": bool(low[6] != high[6]),
    }


def _openvla(folder: Path) -> dict[str, Any]:
    config = _config(folder)
    if config.get("model_type") != "openvla":
        raise UserError(f"{folder / 'config.json'}: model_type: {config.get('model_type')!r} is not 'openvla'")
    sizes = config.get("image_sizes")
    if not isinstance(sizes, list) or not sizes:
        raise UserError(f"{folder / 'config.json'}: image_sizes: expected a list of sizes")
    decoding = folder / "rldg_openvla.json"  # parallel decoding, in chunks: told by a file of ours
    told = read_json(decoding) if decoding.is_file() else None
    horizon = told.get("horizon", 1) if isinstance(told, dict) else 1
    return {"image_size": sizes[0], "window": 1, "horizon": horizon, "version": 0}


def _octo(folder: Path) -> dict[str, Any]:
    config = _config(folder)
    try:
        horizon = config["model"]["heads"]["action"]["kwargs"]["action_horizon"]
        window = config["window_size"]
    except (LookupError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'}: not one of Octo: no {error}") from error
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()]
    if not steps:
        raise UserError(f"{folder}: no <step>/ with the weights")
    return {"image_size": _octo_image_size(folder), "window": window, "horizon": horizon, "version": max(steps)}


def _octo_image_size(folder: Path) -> int:
    """Side of the primary image in example_batch.msgpack (flax: arrays are extension 1, shape first)."""
    path = folder / "example_batch.msgpack"

    def shape(code: int, data: bytes) -> Any:
        return msgpack.unpackb(data, strict_map_key=False)[0] if code == _NDARRAY else None  # bounded: by its length

    try:
        batch = msgpack.unpackb(read_bytes(path), ext_hook=shape, strict_map_key=False)  # bounded: by its length
        return int(batch["observation"]["image_primary"][2])
    except (ValueError, LookupError, TypeError, msgpack.UnpackException) as error:
        raise UserError(f"{path}: no observation/image_primary in it: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: expected a JSON object")
    return config


_DESCRIBE = {"openvla": _openvla, "octo": _octo}
