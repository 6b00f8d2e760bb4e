"""Resumable list of stages: each finished stage writes one JSON file.

The key of a stage is a hash of the plan and of all stages before it. A changed plan, seed or task therefore repeats the
stages that depend on it, and an interrupted run continues with the first unfinished stage.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldg_core.errors import StalledError
from rldg_core.files import read_json, write_json

Result = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """`run(folder)` writes to the empty folder of the stage and returns values for the report."""

    name: str
    run: Callable[[Path], Result]


@dataclass(frozen=True)
class StageRecord:
    """Result of a finished stage. resumed: it was finished by an earlier run."""

    name: str
    wall_s: float
    result: Result
    resumed: bool


def run_stages(
    stages: list[Stage], run_dir: Path, plan: Any, on_start: Callable[[Stage, int], None] = lambda _s, _i: None
) -> list[StageRecord]:
    """Run the unfinished stages in order and return all records. After an error, finished stages stay finished."""
    records = []
    key = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    for index, stage in enumerate(stages):
        key = hashlib.sha256(f"{key}/{stage.name}".encode()).hexdigest()
        path = run_dir / "stages" / f"{stage.name}.json"
        record = _finished(path, key)
        if record is None:
            on_start(stage, index)
            record = _run(stage, run_dir / stage.name, path, key)
        records.append(record)
    return records


def _finished(path: Path, key: str) -> StageRecord | None:
    if not path.is_file():
        return None
    data = read_json(path)
    if data.get("key") != key:
        return None
    return StageRecord(data["name"], data["wall_s"], data["result"], resumed=True)


def _run(stage: Stage, folder: Path, path: Path, key: str) -> StageRecord:
    path.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        result = stage.run(_emptied(folder))
    except StalledError as error:
        # Repeat once: the same seeds give the same result. A second stall is not a lost message.
        print(f"stage {stage.name} stalled, running it again: {error}", file=sys.stderr)
        result = stage.run(_emptied(folder))
    wall_s = round(time.monotonic() - start, 2)
    write_json(path, {"key": key, "name": stage.name, "wall_s": wall_s, "result": result})
    return StageRecord(stage.name, wall_s, result, resumed=False)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
