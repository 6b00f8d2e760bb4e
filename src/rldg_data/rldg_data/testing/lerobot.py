"""Bags, plans and LeRobot datasets of other suites, for the tests of rldg_data.lerobot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rldg_core.image_codec import decode_jpeg
from rldg_data.bags.recording import write_episode
from rldg_data.plan import EpisodePlan, ImageFormat, Plan
from rldg_data.testing.steps import make_episode, make_task


def write_bags(bag_dir: Path, episodes: list[dict[str, Any]]) -> list[Path]:
    """One bag per dictionary of arguments of make_episode."""
    return [
        write_episode(bag_dir, make_episode(**options), make_task(options.get("gripper", False)), wall_time="now")
        for options in episodes
    ]


def make_plan(bags: list[Path], val: int = 0, size_px: int | None = None) -> Plan:
    """All bags in one dataset, the last `val` of them in the split val."""
    images = ImageFormat(size_px)
    first_val = len(bags) - val
    return Plan(
        "toy",
        "1.0.0",
        tuple(EpisodePlan("train" if i < first_val else "val", (bag,), images=images) for i, bag in enumerate(bags)),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}  # bounded: files that a test wrote


def psnr_db(jpeg: bytes, other: bytes) -> float:
    """Of two JPEG files of one size."""
    difference = decode_jpeg(jpeg).astype(float) - decode_jpeg(other)
    return float(10 * np.log10(255**2 / max(1e-9, float(np.mean(difference**2)))))


def write_external(
    root: Path,
    lengths: tuple[int, ...] = (3, 5),
    *,
    height: int = 48,
    width: int = 64,
    action: NDArray[np.float32] | None = None,
    success: bool | None = None,
    features: dict[str, Any] | None = None,
) -> Path:
    """A dataset as others write it: all episodes in one row group, frames as PNG in the table, a 6-D action, no final/.

    features: replaces entries of meta/info.json; None takes one out.
    """
    total = sum(lengths)
    rng = np.random.default_rng(0)
    pose = np.tile(np.array([0.5, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0], np.float32), (total, 1))
    pose[:, 0] = np.arange(total) * 0.01
    actions = rng.uniform(-0.9, 0.9, (total, 6)).astype(np.float32) if action is None else action
    frames = rng.integers(0, 255, (total, height, width, 3), dtype=np.uint8)
    columns: dict[str, Any] = {
        "arm": list(pose),
        "control": list(actions),
        "top": [{"bytes": cv2.imencode(".png", f[..., ::-1])[1].tobytes(), "path": None} for f in frames],
        "timestamp": np.concatenate([np.arange(n) / 5 for n in lengths]).astype(np.float32),
        "frame_index": np.concatenate([np.arange(n) for n in lengths]),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(total),
        "task_index": np.zeros(total, np.int64),
    }
    specs = {
        "arm": {"dtype": "float32", "shape": [7], "names": None},
        "control": {"dtype": "float32", "shape": [6], "names": None},
        "top": {"dtype": "image", "shape": [height, width, 3], "names": ["height", "width", "channels"]},
    }
    if success is not None:
        columns["next.success"] = np.full(total, success)
        specs["next.success"] = {"dtype": "bool", "shape": [1], "names": None}
    specs |= features or {}
    info = {
        "codebase_version": "v3.0",
        "fps": 5,
        "features": {name: spec for name, spec in specs.items() if spec},
        "total_episodes": len(lengths),
        "total_frames": total,
        "total_tasks": 1,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
    }
    ends = np.cumsum(lengths)
    meta = {
        "episode_index": np.arange(len(lengths)),
        "tasks": [["plug it in"]] * len(lengths),
        "length": list(lengths),
        "dataset_from_index": ends - lengths,
        "dataset_to_index": ends,
        "data/chunk_index": np.zeros(len(lengths), np.int64),
        "data/file_index": np.zeros(len(lengths), np.int64),
    }
    for folder in ("data/chunk-000", "meta/episodes/chunk-000"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    pq.write_table(pa.table(columns), root / "data/chunk-000/file-000.parquet")
    pq.write_table(pa.table(meta), root / "meta/episodes/chunk-000/file-000.parquet")
    return root
