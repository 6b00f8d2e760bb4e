"""Read and check meta/info.json, meta/episodes and data of a LeRobot dataset v3; one row group is in memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import check_regular, read_json
from rldg_data.lerobot.layout import INFO_PATH

MAX_GROUP_BYTES = 2 * 2**30
"""Limit of one unpacked row group. lerobot writes a group per episode; images in a table take 0.5 GB in its largest
files."""
MAX_GROUP_ROWS = 2**22
"""Limit of one row group, since repeated values take no bytes. 4 million frames are 4 days at 10 Hz."""


@dataclass(frozen=True)
class Info:
    """meta/info.json. features: name -> {dtype, shape, names, info}; splits: name -> (first episode, end)."""

    path: Path
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    episodes: int
    splits: Mapping[str, tuple[int, int]]
    data_path: str
    video_path: str

    def file(self, template: str, chunk: int, file: int, video_key: str = "") -> Path:
        """Path of a file. Raises UserError when the path is outside the dataset or invalid."""
        try:
            relative = template.format(chunk_index=int(chunk), file_index=int(file), video_key=video_key)
        except (LookupError, ValueError, AttributeError) as error:
            raise UserError(f"{self.path / INFO_PATH}: unusable path {template!r}") from error
        path = self.path / relative
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise UserError(f"{self.path / INFO_PATH}: path {relative!r} is outside the dataset")
        if not path.is_file():
            raise UserError(f"{path}: missing")
        return path


def read_info(path: Path) -> Info:
    """Read meta/info.json. Raises UserError when it is missing, malformed or of another version than 3."""
    file = path / INFO_PATH
    if not file.is_file():
        raise UserError(f"{path}: not a LeRobot dataset: no {INFO_PATH}")
    raw = read_json(file)
    version = str(raw.get("codebase_version", "none")) if isinstance(raw, dict) else "none"
    if re.fullmatch(r"v[12](\.\d+)*", version):
        convert = "convert it with lerobot's convert_dataset_v21_to_v30"
        raise UserError(f"{file}: codebase_version {version!r}, expected v3.0: {convert}")
    if not re.fullmatch(r"v3(\.\d+)*", version):
        raise UserError(f"{file}: codebase_version {version!r}, expected v3.0")
    try:
        info = Info(
            path=path,
            fps=float(raw["fps"]),
            features={str(name): _feature(spec) for name, spec in raw["features"].items()},
            episodes=int(raw["total_episodes"]),
            splits={str(name): _range(text) for name, text in raw.get("splits", {}).items()},
            data_path=str(raw["data_path"]),
            video_path=str(raw["video_path"]),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: not the metadata of a LeRobot dataset: {type(error).__name__} {error}") from error
    if not 0 < info.fps < 1e4:
        raise UserError(f"{file}: fps {info.fps}, expected a positive number")
    return info


def read_episode_rows(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of meta/episodes in order, columns `wanted` and those that begin with one of them and a slash."""
    files = sorted((path / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise UserError(f"{path / 'meta/episodes'}: no parquet files")
    number = 0
    for file in files:
        with _parquet(file) as table:
            columns = [n for n in table.schema_arrow.names if any(n == w or n.startswith(w + "/") for w in wanted)]
            _check_size(file, table.metadata, range(table.num_row_groups))
            for batch in table.iter_batches(batch_size=32, columns=columns):
                for row in batch.to_pylist():
                    if row.get("episode_index") != number:
                        raise UserError(f"{file}: episode_index {row.get('episode_index')!r}, expected {number}")
                    yield row
                    number += 1


class DataFile:
    """One file of data/: rows by their place in the file."""

    def __init__(self, path: Path, first_index: int) -> None:
        """first_index: `index` of its first row."""
        self.path = path
        self.first_index = first_index
        with _parquet(path) as table:
            self._metadata = table.metadata
            lengths = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            self._names = set(table.schema_arrow.names)
        self._ends = np.cumsum(lengths, dtype=np.int64)
        self._cached: tuple[tuple[int, ...], pa.Table] | None = None

    def rows(self, start_index: int, length: int, columns: Sequence[str]) -> pa.Table:
        """Rows `start_index` .. `start_index + length - 1` of the dataset. Raises UserError when they are missing."""
        missing = [name for name in columns if name not in self._names]
        if missing:
            raise UserError(f"{self.path}: no column {missing[0]!r}")
        start = start_index - self.first_index
        if start < 0 or length < 1 or start + length > (self._ends[-1] if len(self._ends) else 0):
            raise UserError(f"{self.path}: rows {start_index} .. {start_index + length - 1} are missing")
        groups = tuple(
            range(
                np.searchsorted(self._ends, start, "right"),
                np.searchsorted(self._ends, start + length - 1, "right") + 1,
            )
        )
        if not self._cached or self._cached[0] != groups:
            # Other writers put many episodes into one row group: decode it once, not once per episode.
            _check_size(self.path, self._metadata, groups)
            with _parquet(self.path, self._metadata) as table:
                self._cached = groups, table.read_row_groups(list(groups), columns=list(columns))
        before = int(self._ends[groups[0] - 1]) if groups[0] else 0
        return self._cached[1].slice(start - before, length)


def numbers(table: pa.Table, name: str, where: object) -> NDArray[Any]:
    """A column as (N,) or (N, D). Raises UserError on nulls and lists of different lengths."""
    column = table[name].combine_chunks()
    try:
        if column.null_count:
            raise ValueError("null values")
        if isinstance(column.type, pa.ListType | pa.FixedSizeListType):
            values = np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
            return values.reshape(len(column), -1) if len(column) else values
        return np.asarray(column.to_numpy(zero_copy_only=False))
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(f"{where}: column {name!r}: {error}") from error


def _check_size(path: Path, metadata: pq.FileMetaData, groups: Iterable[int]) -> None:
    """Refuse a row group that unpacks, or decodes, to more than the limit. Raises UserError naming the file.

    Sizes of single columns are not read: pyarrow ends the process on a damaged footer.
    """
    for number in groups:
        group = metadata.row_group(number)
        for found, limit, unit in (
            (group.total_byte_size, MAX_GROUP_BYTES, "bytes"),
            (group.num_rows, MAX_GROUP_ROWS, "rows"),
        ):
            if found > limit:
                said = f"row group {number} unpacks to {found:,} {unit}"
                raise UserError(f"{path}: {said}, expected at most {limit:,}")


@contextmanager
def _parquet(path: Path, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    check_regular(path)
    try:
        with pq.ParquetFile(  # bounded: checked
            path, metadata=metadata, page_checksum_verification=True
        ) as table:
            yield table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _feature(spec: Any) -> dict[str, Any]:
    return {**spec, "dtype": str(spec["dtype"]), "shape": tuple(int(n) for n in spec["shape"])}


def _range(text: str) -> tuple[int, int]:
    first, end = str(text).split(":")
    return int(first), int(end)
