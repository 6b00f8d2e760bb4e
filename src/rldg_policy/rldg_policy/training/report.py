"""What a fine-tuning tells: how far it is, how its losses went, and, in training.json, how a checkpoint came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel

CURVE_EVERY = 50
"""Optimiser steps per point of a curve."""


def curve(values: Sequence[float]) -> tuple[float, ...]:
    """Means of every 50 steps; what is left at the end counts as one."""
    return tuple(fmean(values[begin : begin + CURVE_EVERY]) for begin in range(0, len(values), CURVE_EVERY))


def account(
    result: Mapping[str, Any], dataset: Path, sha256: str, base: Path | None, seed: int, config: BaseModel
) -> dict[str, Any]:
    """Content of training.json. result: members of what `finetune` returns; sha256: of the dataset's content."""
    return {
        **result,
        "checkpoint": str(result["checkpoint"]),
        "dataset": str(dataset),
        "dataset_sha256": sha256,
        "base": None if base is None else str(base),
        "seed": seed,
        "config": config.model_dump(mode="json"),
    }
