"""Checkpoints trained elsewhere: what they say about themselves, and the manifest that says the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_core.files import read_bytes, sha256_hex, write_bytes
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import (
    STATISTICS_FILE,
    UNNAMED_KEY,
    action_statistics,
    choose_statistics,
    read_entries,
)
from rldg_policy.generalist import adoptable, find_generalist


def adopt(folder: Path, backend: str, statistics_key: str, options: Mapping[str, Any]) -> Manifest:
    """Write rldg.json into an upstream checkpoint and return it; the checkpoint's own files are not changed.

    options: members of Manifest that only the user knows (camera and rate_hz, both required; inference_hz, tasks), or
    that may be smaller than in the checkpoint's configuration (window). An OpenVLA checkpoint whose statistics are only
    in config.json also gets a dataset_statistics.json. Raises UserError when the folder is not an upstream checkpoint
    of the back-end, has a manifest already, or has no statistics under the key.
    """
    describe_upstream = find_generalist(backend).describe
    if describe_upstream is None:
        raise UserError(f"backend: {backend!r}, expected one of {', '.join(adoptable())}")
    if (folder / MANIFEST_FILE).exists():
        raise UserError(f"{folder / MANIFEST_FILE}: exists already; remove it to adopt the checkpoint again")
    described = describe_upstream(folder)
    path, entries = read_entries(folder)
    if set(entries) == {UNNAMED_KEY}:
        entries = {statistics_key: entries[UNNAMED_KEY]}  # a single entry without a name: the user names it
    action_statistics(entries, statistics_key, path)
    in_place = path.name == STATISTICS_FILE
    data = read_bytes(path) if in_place else json.dumps(entries, indent=2).encode()
    values = {
        "backend": backend,
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
    """Return a checkpoint's manifest and its largest actions; without a manifest, the statistics keys to choose from.

    Raises UserError when the folder has neither a manifest nor statistics, or when they do not fit each other.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        _, entries = read_entries(folder)
        return {"path": str(folder), "adopted": False, "statistics_keys": sorted(entries)}
    _, statistics = choose_statistics(folder, manifest)
    low, high = statistics.need("q01"), statistics.need("q99")
    largest = np.maximum(np.abs(low), np.abs(high))
    return {
        "path": str(folder),
        "adopted": True,
        **manifest.model_dump(mode="json"),
        "largest_step_m": float(largest[:3].max()),
        "largest_step_rad": float(largest[3:6].max()),
        "gripper": bool(low[6] != high[6]),
    }
