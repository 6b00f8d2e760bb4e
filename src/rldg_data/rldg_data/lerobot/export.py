"""Plan -> LeRobot dataset v3: episodes are encoded in parallel, written in order, published by one rename."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rldg_core.errors import UserError
from rldg_core.files import open_regular, sha256_hex, write_json
from rldg_data.episodes import provenance
from rldg_data.episodes.episode import METADATA_TYPES
from rldg_data.episodes.provenance import ObservationRecord
from rldg_data.exporting import engines
from rldg_data.exporting.engines import Beat, Engine
from rldg_data.exporting.report import REPORT_FILE, ExportResult, Progress, check_plan, report
from rldg_data.exporting.staging import publish, staging
from rldg_data.lerobot import layout
from rldg_data.lerobot.encoding import EncodedEpisode, encode_episode
from rldg_data.lerobot.layout import INFO_PATH, FileIndex
from rldg_data.lerobot.stats import NAMES, Counts, Stats, image_stats, number_stats
from rldg_data.lerobot.video import mux_mp4
from rldg_data.plan import EpisodePlan, Plan

EPISODES_PER_ROW_GROUP = 100
MB = 2**20


@dataclass
class _Video:
    """The open video of one camera: raw h264 until it is full, then mp4. first: number of frames before this file."""

    key: str
    index: FileIndex = field(default_factory=FileIndex)
    frames: int = 0
    num_bytes: int = 0


class DatasetWriter:
    """Writes `folder`; `add` episodes, then `close`.

    The first episode sets frame rate, cameras and image size; a later one that differs is refused (UserError) before
    anything is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first: EncodedEpisode | None = None
        self._videos: dict[str, _Video] = {}
        self._pixels: dict[str, Counts] = {}
        self._tasks: dict[str, int] = {}
        self._splits: dict[str, int] = {}
        self._task_names: set[str] = set()
        self._frames = 0
        self._data: pq.ParquetWriter | None = None
        self._data_index = FileIndex()
        self._episodes: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []

    @property
    def frames(self) -> int:
        """Number of episodes written."""
        return self._frames

    @property
    def made_of(self) -> ObservationRecord:
        """Properties shared by all episodes. At least one must have been added."""
        assert self._first
        return _made_of(self._first)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks written."""
        return sorted(self._task_names)

    @property
    def splits(self) -> Mapping[str, int]:
        """Split -> number of episodes written."""
        return dict(self._splits)

    def add(self, episode: EncodedEpisode, split: str, name: str) -> None:
        """Append an episode; its h264 files are consumed. name: for messages. Splits are written in turn."""
        try:
            self._check(episode, name)
            number = sum(self._splits.values())
            task = self._tasks.setdefault(episode.instruction, len(self._tasks))
            columns = {
                **episode.columns,
                "episode_index": np.full(len(episode), number),
                "index": np.arange(self._frames, self._frames + len(episode)),
                "task_index": np.full(len(episode), task),
            }
            row = {
                "episode_index": number,
                "tasks": [episode.instruction],
                "length": len(episode),
                "dataset_from_index": self._frames,
                "dataset_to_index": self._frames + len(episode),
                **self._add_data(columns),
            }
            for key, path in episode.videos.items():
                row |= self._add_video(key, path, len(episode), episode.fps)
        finally:
            for path in episode.videos.values():
                path.unlink(missing_ok=True)
        stats = {key: number_stats(values) for key, values in columns.items()}
        for key, counts in episode.pixels.items():
            stats[key] = image_stats(counts, len(episode))
            self._pixels[key] = self._pixels.get(key, 0) + counts
        row |= {f"stats/{key}/{name}": value for key, of in stats.items() for name, value in of.items()}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        row |= {layout.METADATA_PREFIX + key: episode.metadata[key] for key in METADATA_TYPES}
        row |= {layout.FINAL_PREFIX + key: _plain(value) for key, value in episode.final.items()}
        self._rows.append(row)
        if len(self._rows) == EPISODES_PER_ROW_GROUP:
            self._flush_episodes()
        self._frames += len(episode)
        self._splits[split] = self._splits.get(split, 0) + 1
        self._task_names.add(str(episode.metadata["task"]))

    def close(self) -> None:
        """Finish all files and write meta/. At least one episode must have been added."""
        assert self._first and self._data
        self._data.close()
        self._flush_episodes()
        assert self._episodes
        self._episodes.close()
        for video in self._videos.values():
            self._finish(video, self._first.fps)
        layout.write_tasks(self._folder / layout.TASKS_PATH, list(self._tasks))
        specs = layout.features(self._first.shapes, self._first.fps)
        write_json(
            self._folder / layout.INFO_PATH,
            layout.info(specs, self._first.fps, self._frames, len(self._tasks), self._splits),
        )
        stats = {key: self._dataset_stats(key) for key in layout.NUMERIC}
        images = {key: image_stats(counts, self._frames) for key, counts in self._pixels.items()}
        write_json(self._folder / layout.STATS_PATH, {**images, **stats})

    def abort(self) -> None:
        """Close the open files; the caller removes the partial dataset."""
        for writer in (self._data, self._episodes):
            if writer:
                writer.close()

    def _check(self, episode: EncodedEpisode, name: str) -> None:
        first = self._first
        if not first:
            self._first = episode
            self._videos = {key: _Video(key) for key in episode.videos}
            return
        _made_of(episode).check(_made_of(first), name, "the first episode")
        for what, value, expected in (
            ("observations per second", episode.fps, first.fps),
            ("cameras", list(episode.videos), list(first.videos)),
            ("image height and width in px", list(episode.shapes.values()), list(first.shapes.values())),
        ):
            if value != expected:
                raise UserError(
                    f"{name}: {what} {value}, the previous episodes have {expected}: LeRobot needs equal values"
                )

    def _add_data(self, columns: Mapping[str, Any]) -> dict[str, int]:
        if self._data and self._data.file_handle.tell() >= layout.DATA_FILE_MB * MB:
            self._data.close()
            self._data, self._data_index = None, self._data_index.next()
        if not self._data:
            self._data = self._open_parquet(self._data_index.path(layout.DATA_PATH), layout.data_schema())
        schema = layout.data_schema()
        # One row group per episode, as lerobot writes it.
        self._data.write_table(pa.table([_array(columns[f.name], f.type) for f in schema], schema=schema))
        return {"data/chunk_index": self._data_index.chunk, "data/file_index": self._data_index.file}

    def _add_video(self, key: str, piece: Path, frames: int, fps: int) -> dict[str, Any]:
        video, size = self._videos[key], piece.stat().st_size
        if video.frames and video.num_bytes + size > layout.VIDEO_FILE_MB * MB:
            self._finish(video, fps)
            video = self._videos[key] = _Video(key, video.index.next())
        stream = self._stream(video)
        stream.parent.mkdir(parents=True, exist_ok=True)
        with stream.open("ab") as target, open_regular(piece) as source:
            shutil.copyfileobj(source, target)
        start = video.frames
        video.frames += frames
        video.num_bytes += size
        prefix = f"videos/{key}"
        return {
            f"{prefix}/chunk_index": video.index.chunk,
            f"{prefix}/file_index": video.index.file,
            f"{prefix}/from_timestamp": start / fps,
            f"{prefix}/to_timestamp": video.frames / fps,
        }

    def _finish(self, video: _Video, fps: int) -> None:
        stream = self._stream(video)
        mux_mp4(stream, stream.with_suffix(".mp4"), fps)
        stream.unlink()

    def _stream(self, video: _Video) -> Path:
        return (self._folder / video.index.path(layout.VIDEO_PATH, video.key)).with_suffix(".h264")

    def _flush_episodes(self) -> None:
        if not self._rows:
            return
        if not self._episodes:
            self._episodes = self._open_parquet(FileIndex().path(layout.EPISODES_PATH), self._episodes_schema())
        self._episodes.write_table(pa.Table.from_pylist(self._rows, self._episodes.schema))
        self._rows = []

    def _episodes_schema(self) -> pa.Schema:
        integers = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
        kinds = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
        fields = [(name, pa.int64()) for name in integers]
        fields.insert(1, ("tasks", pa.list_(pa.string())))
        fields += [(f"{part}/{kind}_index", pa.int64()) for part in ("data",) for kind in ("chunk", "file")]
        for key in self._videos:
            fields += [(f"videos/{key}/{kind}_index", pa.int64()) for kind in ("chunk", "file")]
            fields += [(f"videos/{key}/{end}_timestamp", pa.float64()) for end in ("from", "to")]
        numbers, channels = pa.list_(pa.float64()), pa.list_(pa.list_(pa.list_(pa.float64())))
        for key in (*self._videos, *layout.NUMERIC):
            kind = channels if key in self._videos else numbers
            fields += [(f"stats/{key}/{n}", pa.list_(pa.int64()) if n == "count" else kind) for n in NAMES]
        fields += [(f"meta/episodes/{kind}_index", pa.int64()) for kind in ("chunk", "file")]
        fields += [(layout.METADATA_PREFIX + key, kinds[kind]) for key, kind in METADATA_TYPES.items()]
        fields += [(layout.FINAL_PREFIX + key, layout.arrow_type(*layout.NUMERIC[key])) for key in layout.FINAL]
        fields += [(layout.FINAL_PREFIX + key, pa.binary()) for key in self._videos]
        return pa.schema(fields)

    def _open_parquet(self, relative: str, schema: pa.Schema) -> pq.ParquetWriter:
        path = self._folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        # Page checksums detect corrupt data.
        return pq.ParquetWriter(path, schema, compression="snappy", write_page_checksum=True)

    def _dataset_stats(self, key: str) -> Stats:
        """Read one column back: at most 8 float64 per frame are in memory, and quantiles are exact."""
        files = sorted((self._folder / "data").glob("*/*.parquet"))
        columns = [pq.read_table(file, columns=[key], partitioning=None)[key] for file in files]  # bounded: our own
        return number_stats(np.concatenate([to_numpy(column) for column in columns]))


def _made_of(episode: EncodedEpisode) -> ObservationRecord:
    return ObservationRecord.of(provenance.parts(episode.metadata))


def to_numpy(column: pa.ChunkedArray) -> Any:
    """A column without nulls as an array (N,) or, of lists of one size, (N, D)."""
    array = column.combine_chunks()
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        values = array.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(array), -1)
    return array.to_numpy(zero_copy_only=False)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values).ravel(), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.array(values, kind)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@dataclass(frozen=True)
class _Job:
    """Job of one episode; stem: path of its video streams, on a disk shared by all workers."""

    number: int
    plan: EpisodePlan
    stem: Path


@dataclass(frozen=True)
class _EncodingResult:
    """episode None: it cannot be stored, for `reason`."""

    number: int
    episode: EncodedEpisode | None
    reason: str = ""


@dataclass
class _OrderedWriter:
    """Pass results, which arrive in any order, to the writer in the order of the plan."""

    plan: Plan
    writer: DatasetWriter
    skip_bad: bool
    progress: Progress | None
    bad: list[tuple[Path, str]]
    waiting: dict[int, _EncodingResult] = field(default_factory=dict)
    number: int = 0

    def take(self, done: _EncodingResult) -> None:
        """Write the next episodes in order. Raises UserError on an unusable episode, unless they are skipped."""
        self.waiting[done.number] = done
        while due := self.waiting.pop(self.number, None):
            episode = self.plan.episodes[self.number]
            try:
                if not due.episode:
                    raise UserError(due.reason)
                self.writer.add(due.episode, episode.split, episode.name)
            except UserError as error:
                if not self.skip_bad:
                    raise
                self.bad += [(bag, str(error)) for bag in episode.bags]
            self.number += 1
            self.beat()

    def beat(self) -> None:
        """Report progress; the callback may cancel."""
        if self.progress:
            self.progress(self.number, len(self.plan.episodes))


def export_plan(
    plan: Plan,
    root: Path,
    *,
    workers: int = 1,
    engine: Engine = "processes",
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> ExportResult:
    """Write `<root>/<plan.name>/<plan.version>`; the same plan and bags give the same bytes on any engine.

    With skip_bad, unusable episodes are left out and listed in the result and in export_report.json. Leftovers of a
    killed export are removed by the next one, which starts over. Raises UserError when the plan cannot be written,
    a bag is damaged, the disk is full or another export is writing it; an existing dataset is then unchanged.
    """
    check_plan(plan, workers)
    path = root / plan.name / plan.version
    with staging(path, sha256_hex(f"lerobot {plan.sha256()}".encode()), INFO_PATH, overwrite) as aside:
        _clear(aside)
        folder, pieces = aside / "dataset", aside / "pieces"
        writer = DatasetWriter(folder)
        order = _OrderedWriter(plan, writer, skip_bad, progress, list(plan.bad))
        try:
            folder.mkdir()
            pieces.mkdir()
            jobs = [_Job(number, episode, pieces / f"{number:06d}") for number, episode in enumerate(plan.episodes)]
            engines.run(_encode, jobs, order.take, order.beat, workers=workers, engine=engine)
            if not writer.splits.get("train"):
                raise UserError(f"{path}: no episode left in split train: {len(order.bad)} bad, {order.bad[0][1]}")
            writer.close()
            result = ExportResult(
                path, writer.splits, writer.frames + sum(writer.splits.values()), plan.left_out, tuple(order.bad), 0
            )
            write_json(
                folder / REPORT_FILE,
                report(plan, result.episodes, result.steps, result.bad, writer.made_of, writer.tasks),
            )
            publish(folder, path)
        finally:
            writer.abort()
            _clear(aside)
    return result


def _encode(job: _Job, beat: Beat) -> _EncodingResult:
    """Encode one episode in a worker. An unusable episode is a result: the caller decides what to do."""
    beat()
    try:
        return _EncodingResult(job.number, encode_episode(job.plan, job.stem))
    except UserError as error:
        return _EncodingResult(job.number, None, str(error))


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        shutil.rmtree(item)
