"""Plan -> RLDS dataset: shards are independent jobs, resumed after a kill and published by one rename."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import google_crc32c

from rldg_core.errors import UserError
from rldg_core.files import fsync, read_json, sha256_hex, write_json
from rldg_data.episodes import provenance
from rldg_data.episodes.episode import Episode
from rldg_data.episodes.images import text
from rldg_data.episodes.jpeg import check as jpeg_size
from rldg_data.episodes.provenance import ObservationRecord
from rldg_data.exporting import engines
from rldg_data.exporting.engines import Engine
from rldg_data.exporting.report import REPORT_FILE, ExportResult, Progress, check_plan, report
from rldg_data.exporting.staging import publish, staging
from rldg_data.plan import SPLITS, EpisodePlan, Plan
from rldg_data.rlds import layout
from rldg_data.rlds.examples import to_features
from rldg_data.rlds.layout import ImageSizes
from rldg_data.rlds.registration import OCTO_FILE, OPENVLA_FILE, octo_kwargs, openvla_register
from rldg_data.rlds.statistics import dataset_statistics, rows_of
from rldg_data.rlds.tfrecord import encode_example, masked_crc, read_records, write_record

_FORMAT = 2
"""Version of the written bytes: shards of a killed export by another version are not resumed."""
_BUFFER_BYTES = 1 << 20
"""Buffer of a file written in parts of about ten thousand bytes."""


@dataclass(frozen=True)
class ShardJob:
    """folder: of the unfinished dataset; sizes: what the images must be; made_of: what they
    are all made of; skip_bad: leave out unreadable episodes."""

    folder: Path
    split: str
    index: int
    episodes: tuple[EpisodePlan, ...]
    sizes: ImageSizes
    made_of: ObservationRecord
    skip_bad: bool = False

    def file(self, ending: str) -> Path:
        """tfrecord, rows or json."""
        return self.folder / f"{self.split}-{self.index:05d}.{ending}"

    def key(self) -> str:
        """Hash of everything that determines the bytes: the plan's part, size and time of every input file."""
        read = [path for episode in self.episodes for path in _inputs(episode)]
        stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in read]
        parts = [_FORMAT, [asdict(e) for e in self.episodes], dict(self.sizes), asdict(self.made_of), stamps]
        return sha256_hex(json.dumps(parts, default=str, sort_keys=True).encode())


@dataclass(frozen=True)
class Shard:
    """A complete shard. num_bytes: of its examples; crc: over the CRCs of its records; bad: (bag, reason) left out."""

    key: str
    split: str
    index: int
    episodes: int
    steps: int
    num_bytes: int
    crc: int
    tasks: tuple[str, ...]
    bad: tuple[tuple[str, str], ...]


def shards_of(episodes: Sequence[EpisodePlan], shard_bytes: int) -> list[tuple[EpisodePlan, ...]]:
    """Divide one split, in order, into parts of about equal size, by the plan alone."""
    total = sum(episode.num_bytes for episode in episodes)
    count = -(-total // shard_bytes)
    middles, before = [], 0
    for episode in episodes:
        middles.append(before + episode.num_bytes / 2)
        before += episode.num_bytes
    numbered = zip(middles, episodes, strict=True)
    parts = groupby(numbered, key=lambda pair: int(pair[0] * count / total) if total else 0)
    return [tuple(episode for _, episode in part) for _, part in parts]


def write_shard(job: ShardJob, beat: Callable[[], None]) -> Shard:
    """Build and write the episodes of one shard; `beat` is called after each. Raises UserError naming the bag."""
    # Imported here: bag readers are slow to import and not needed to read a dataset.
    from rldg_data.episodes.build import build_episode

    key = job.key()
    steps = num_bytes = count = crc = 0
    tasks: set[str] = set()
    bad: list[tuple[str, str]] = []
    scratch = {ending: job.folder / f".{job.split}-{job.index:05d}.{os.getpid()}.{ending}" for ending in _CONTENT}
    try:
        with scratch["tfrecord"].open("wb", _BUFFER_BYTES) as stream, scratch["rows"].open("wb") as rows:
            for plan in job.episodes:
                try:
                    episode = build_episode(plan)
                    check_episode(episode, job.sizes, job.made_of, plan.name)
                except UserError as error:
                    if not job.skip_bad:
                        raise
                    bad.append((str(plan.bags[0]), str(error)))
                else:
                    payload = encode_example(to_features(episode))
                    record_crc = write_record(stream, *payload)
                    crc = google_crc32c.extend(crc, record_crc.to_bytes(4, "little"))
                    num_bytes += sum(map(len, payload))
                    rows.write(rows_of(episode).tobytes())
                    steps += len(episode)
                    count += 1
                    tasks.add(str(episode.metadata["task"]))
                beat()
        for ending, path in scratch.items():
            path.rename(job.file(ending))
        shard = Shard(
            key,
            job.split,
            job.index,
            count,
            steps,
            num_bytes,
            crc,
            tuple(sorted(tasks)),
            tuple(bad),
        )
        write_json(job.file("json"), asdict(shard))
    except OSError as error:
        raise UserError(f"{job.file('tfrecord')}: cannot write: {error.strerror or error}") from error
    finally:
        for path in scratch.values():
            path.unlink(missing_ok=True)
    return shard


def complete_shard(job: ShardJob) -> Shard | None:
    """Return the shard of a killed export, if it is complete and its inputs have not changed."""
    try:
        data: dict[str, Any] = read_json(job.file("json"))
        bad = tuple((str(bag), str(reason)) for bag, reason in data["bad"])
        shard = Shard(**{**data, "tasks": tuple(data["tasks"]), "bad": bad})
        intact = (
            shard.key == job.key()
            and (job.skip_bad or not shard.bad)
            and job.file("rows").is_file()
            and _crc(job.file("tfrecord")) == shard.crc
        )
    except (UserError, OSError, ValueError, LookupError, TypeError):
        return None
    return shard if intact else None


def check_episode(episode: Episode, sizes: ImageSizes, made_of: ObservationRecord, name: str) -> None:
    """Refuse an episode that differs from the others or has no transition."""
    if len(episode) < 2:
        raise UserError(f"{name}: an episode without a transition")
    ObservationRecord.of(provenance.parts(episode.metadata)).check(made_of, name, "the first episode")
    found = {key: jpeg_size(files[0]) for key, files in episode.images.items()}
    for key, size in sizes.items():
        if found.get(key) != size:
            has = text(found[key]) if key in found else "missing"
            raise UserError(
                f"{name}: image {key} is {has}, in the first episode it has {text(size)}: set images.size_px"
            )


_CONTENT = ("tfrecord", "rows")


def _crc(path: Path) -> int:
    """CRC of a shard on disk. Raises UserError when a record is damaged."""
    crc = 0
    for record in read_records(path):
        crc = google_crc32c.extend(crc, masked_crc(record).to_bytes(4, "little"))
    return crc


def _inputs(plan: EpisodePlan) -> list[Path]:
    """Every input file of the episode; the plan contains a checkpoint's hash."""
    return [path for bag in plan.bags for path in sorted(bag.rglob("*")) if path.is_file()]


MARKER_FILE = "dataset_info.json"
MAX_SHARD_BYTES = 256 * 2**20
"""Shard size: enough shards to read in parallel, few enough to copy."""
MIN_SHARD_BYTES = 16 * 2**20
PARTS = 8
"""Number of shards of smaller datasets, so that any number of workers can share the work."""


def export_plan(
    plan: Plan,
    root: Path,
    *,
    workers: int = 1,
    engine: Engine = "processes",
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: Progress | None = None,
    shard_bytes: int | None = None,
) -> ExportResult:
    """Write `<root>/<plan.name>/<plan.version>`; the same plan and bags give the same bytes on any engine.

    With skip_bad, episodes that cannot be built are left out and listed in the result and in export_report.json.
    shard_bytes: about the size of a shard; default: by the size of the plan. An export that was killed, cancelled or
    failed keeps its complete shards in a hidden folder, and the next one of the same plan resumes from them.
    Raises UserError when the plan cannot be written, a bag is damaged, the disk is full or another export is at it;
    whatever stood there before stays.
    """
    _check(plan, workers)
    path = root / plan.name / plan.version
    with staging(path, plan.sha256(), MARKER_FILE, overwrite) as folder:
        jobs = _jobs(plan, folder, skip_bad, shard_bytes)
        shards, resumed = _write_shards(jobs, len(plan.episodes), workers, engine, progress)
        bad = [*plan.bad, *((Path(bag), reason) for shard in shards for bag, reason in shard.bad)]
        if not any(shard.episodes for shard in shards if shard.split == "train"):
            raise UserError(f"{path}: no episode left in split train: {len(bad)} bad, first: {bad[0][1]}")
        finished = folder / "dataset"
        _assemble(plan, finished, shards, {(job.split, job.index): job for job in jobs}, bad)
        publish(finished, path)
        for left in folder.iterdir():
            left.unlink()
    episodes: Counter[str] = Counter()
    for shard in shards:
        episodes[shard.split] += shard.episodes
    steps = sum(shard.steps for shard in shards)
    return ExportResult(path, +episodes, steps, plan.left_out, tuple(bad), resumed)


def _check(plan: Plan, workers: int) -> None:
    check_plan(plan, workers)
    keys = [key for key, _ in plan.episodes[0].cameras]
    for episode in plan.episodes:
        if [key for key, _ in episode.cameras] != keys:
            raise UserError(f"{episode.name}: cameras differ from the first episode's {', '.join(keys)}")
    for key in keys:
        if f"observation/{key}" in layout.STEP_SHAPES:
            raise UserError(f"dataset {plan.name}: image key {key!r}: used by another feature")


def _jobs(plan: Plan, folder: Path, skip_bad: bool, shard_bytes: int | None) -> list[ShardJob]:
    sizes, made_of = _first(plan, skip_bad)
    total = sum(episode.num_bytes for episode in plan.episodes)
    target = shard_bytes or min(max(total // PARTS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    jobs = []
    for split in SPLITS:
        parts = shards_of([episode for episode in plan.episodes if episode.split == split], target)
        jobs += [ShardJob(folder, split, index, part, sizes, made_of, skip_bad) for index, part in enumerate(parts)]
    return jobs


def _first(plan: Plan, skip_bad: bool) -> tuple[layout.ImageSizes, ObservationRecord]:
    """Return the image sizes and properties that all episodes must share, from the first readable one."""
    reason = ""
    for episode in plan.episodes:
        try:
            return _image_sizes_and_record(episode)
        except UserError as error:
            if not skip_bad:
                raise
            reason = reason or str(error)
    raise UserError(f"dataset {plan.name}: none of {len(plan.episodes)} episodes can be read, first: {reason}")


def _image_sizes_and_record(episode: EpisodePlan) -> tuple[layout.ImageSizes, ObservationRecord]:
    from rldg_data.episodes.build import build_episode

    first = build_episode(replace(episode, relabel=None))
    sizes = {key: jpeg_size(files[0]) for key, files in first.images.items()}
    return sizes, ObservationRecord.of(provenance.parts(first.metadata))


def _write_shards(
    jobs: Sequence[ShardJob], episodes: int, workers: int, engine: Engine, progress: Progress | None
) -> tuple[list[Shard], int]:
    """Return the shards in the plan's order, and the number of resumed episodes."""
    shards: dict[tuple[str, int], Shard] = {}
    waiting = []
    for job in jobs:
        if (shard := complete_shard(job)) is None:
            waiting.append(job)
        else:
            shards[shard.split, shard.index] = shard
    resumed = sum(shard.episodes for shard in shards.values())
    planned = {(job.split, job.index): len(job.episodes) for job in jobs}
    files = {(job.split, job.index): job.file("tfrecord") for job in jobs}
    done = within = 0

    def beat() -> None:
        nonlocal within
        # Per-episode progress is reported only with one worker.
        within += 1
        if progress:
            progress(min(done + within, episodes), episodes)

    # Flush each shard while the next one is built, so that `publish` has little left to flush.
    with ThreadPoolExecutor(1) as disk:
        synced = []

        def take(shard: Shard) -> None:
            nonlocal done, within
            key = shard.split, shard.index
            shards[key] = shard
            done, within = sum(planned[key] for key in shards), 0
            synced.append(disk.submit(fsync, files[key]))

        engines.run(write_shard, waiting, take, beat, workers=workers, engine=engine)
        for future in synced:
            future.result()
    return [shards[key] for key in planned], resumed


def _assemble(
    plan: Plan,
    folder: Path,
    shards: Sequence[Shard],
    jobs: Mapping[tuple[str, int], ShardJob],
    bad: Sequence[tuple[Path, str]],
) -> None:
    """Collect all files of the dataset in one folder; small files first, since they take the time."""
    folder.mkdir(exist_ok=True)
    kept = {s: [x for x in shards if x.split == s and x.episodes] for s in SPLITS}
    splits = {
        name: layout.Split(tuple(s.episodes for s in parts), sum(s.num_bytes for s in parts))
        for name, parts in kept.items()
        if parts
    }
    rows = [jobs["train", shard.index].file("rows") for shard in kept["train"]]
    statistics = dataset_statistics(rows, sum(splits["train"].shard_lengths))
    tasks = sorted({task for shard in shards for task in shard.tasks})
    description = plan.description or f"Episodes recorded by RLDG for ROS 2; tasks: {', '.join(tasks)}."
    job = next(iter(jobs.values()))
    sizes, made_of = job.sizes, job.made_of
    episodes = {name: sum(split.shard_lengths) for name, split in splits.items()}
    files: dict[str, Any] = {
        MARKER_FILE: layout.dataset_info(plan.name, plan.version, description, splits),
        "features.json": layout.features_json(sizes),
        "dataset_statistics.json": statistics,
        REPORT_FILE: report(plan, episodes, sum(shard.steps for shard in shards), bad, made_of, tasks),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    (folder / OPENVLA_FILE).write_text(openvla_register(plan.name, sizes))
    (folder / OCTO_FILE).write_text(octo_kwargs(plan.name, plan.version, sizes))
    for split, parts in kept.items():
        for index, shard in enumerate(parts):
            written = jobs[split, shard.index].file("tfrecord")
            written.rename(folder / layout.shard_name(plan.name, split, index, len(parts)))
