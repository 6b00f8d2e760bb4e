"""Layout of a LeRobot dataset v3: file names, features, meta/info.json, meta/tasks.parquet.

Follows lerobot 0.6 (`lerobot/datasets`: utils.py, feature_utils.py, dataset_metadata.py), codebase_version v3.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rldg_data.lerobot.video import CRF, GOP, PRESET

CODEBASE_VERSION = "v3.0"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_PER_CHUNK = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

IMAGE_PREFIX = "observation.images."
FINAL_PREFIX = "final/"
METADATA_PREFIX = "episode_metadata/"

_POSE = ("x_m", "y_m", "z_m", "qx", "qy", "qz", "qw")
_AXES = ("x", "y", "z")
NUMERIC: Mapping[str, tuple[str, tuple[str, ...] | None]] = {
    "observation.state": ("float32", (*_POSE, "gripper_width_m")),
    "observation.twist": ("float32", (*(f"v{a}_m_s" for a in _AXES), *(f"w{a}_rad_s" for a in _AXES))),
    "observation.wrench": ("float32", (*(f"f{a}_n" for a in _AXES), *(f"t{a}_n_m" for a in _AXES))),
    "action": ("float32", (*(f"d{a}_m" for a in _AXES), *(f"dr{a}_rad" for a in _AXES), "gripper_open")),
    "next.reward": ("float32", None),
    "next.done": ("bool", None),
    "next.truncated": ("bool", None),
    "next.success": ("bool", None),
    "stamp_s": ("float32", None),
    "timestamp": ("float32", None),
    "frame_index": ("int64", None),
    "episode_index": ("int64", None),
    "index": ("int64", None),
    "task_index": ("int64", None),
}
"""Column of data/*.parquet -> (dtype, component names; None: a scalar).

state, twist, wrench and action as in `rldg_data.episodes`. timestamp is frame_index / fps exactly: lerobot finds
video frames by it; stamp_s is the real time of the observation, in seconds since the episode's first. It is no
`observation.*`, since lerobot takes each of those as an input of the policy.
"""

FINAL = ("observation.state", "observation.twist", "observation.wrench", "action", "next.reward", "stamp_s")
"""Columns of the last Step, which has no action and is not a frame in LeRobot: in meta/episodes as `final/<name>`.

Its images are `final/observation.images.<key>`, JPEG.
"""


@dataclass(frozen=True)
class FileIndex:
    """Number of a file, starting with `chunk-000/file-000`."""

    chunk: int = 0
    file: int = 0

    def next(self) -> FileIndex:
        """Return the next one, in a new chunk when this one is full."""
        full = self.file == FILES_PER_CHUNK - 1
        return FileIndex(self.chunk + 1, 0) if full else FileIndex(self.chunk, self.file + 1)

    def path(self, template: str, video_key: str = "") -> str:
        """Format one of the templates above."""
        return template.format(chunk_index=self.chunk, file_index=self.file, video_key=video_key)


def arrow_type(dtype: str, names: Sequence[str] | None) -> pa.DataType:
    """Arrow type of a feature: a scalar, or a list of fixed size."""
    scalar = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}[dtype]
    return pa.list_(scalar, len(names)) if names else scalar


def data_schema() -> pa.Schema:
    """Schema of data/*.parquet."""
    return pa.schema([(key, arrow_type(*kind)) for key, kind in NUMERIC.items()])


def features(image_shapes: Mapping[str, tuple[int, int]], fps: int) -> dict[str, Any]:
    """`features` of meta/info.json. image_shapes: feature -> (height, width) [px]."""
    videos = {key: _video(height, width, fps) for key, (height, width) in image_shapes.items()}
    numeric = {
        key: {"dtype": dtype, "shape": [len(names) if names else 1], "names": list(names) if names else None}
        for key, (dtype, names) in NUMERIC.items()
    }
    return {**videos, **numeric}


def _video(height: int, width: int, fps: int) -> dict[str, Any]:
    return {
        "dtype": "video",
        "shape": [height, width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": height,
            "video.width": width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.fps": fps,
            "video.channels": 3,
            "video.g": GOP,
            "video.crf": CRF,
            "video.preset": PRESET,
            "has_audio": False,
            "is_depth_map": False,
        },
    }


def info(
    feature_specs: Mapping[str, Any], fps: int, frames: int, tasks: int, split_lengths: Mapping[str, int]
) -> dict[str, Any]:
    """Content of meta/info.json. split_lengths: episodes, in the order in which they lie in the dataset."""
    splits, start = {}, 0
    for name, length in split_lengths.items():
        splits[name] = f"{start}:{start + length}"
        start += length
    return {
        "codebase_version": CODEBASE_VERSION,
        "fps": fps,
        "features": dict(feature_specs),
        "total_episodes": start,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "robot_type": None,
        "splits": splits,
    }


def write_tasks(path: Path, instructions: Sequence[str]) -> None:
    """Write meta/tasks.parquet: for pandas a frame with index `task` and column `task_index`."""
    columns = [("task_index", "int64", "int64"), ("task", "unicode", "object")]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in columns
        ],
        "pandas_version": "2.0.0",
    }
    schema = pa.schema([("task_index", pa.int64()), ("task", pa.string())], metadata={"pandas": json.dumps(pandas)})
    table = pa.Table.from_arrays(
        [pa.array(range(len(instructions)), pa.int64()), pa.array(instructions, pa.string())], schema=schema
    )
    pq.write_table(table, path)
