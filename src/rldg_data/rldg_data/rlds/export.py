"""Plan -> RLDS dataset: shards as independent jobs of any engine, resumed after a kill, published by one rename."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import fsync
from rldg_data.episodes import provenance
from rldg_data.episodes.jpeg import check as jpeg_size
from rldg_data.episodes.provenance import MadeOf
from rldg_data.recipe.plan import SPLITS, EpisodePlan, Plan
from rldg_data.rlds import layout
from rldg_data.rlds.registration import OCTO_FILE, OPENVLA_FILE, octo_kwargs, openvla_register
from rldg_data.rlds.shards import Shard, ShardJob, complete_shard, shards_of, write_shard
from rldg_data.rlds.statistics import dataset_statistics
from rldg_data.running import engines
from rldg_data.running.engines import Engine
from rldg_data.running.outcome import REPORT_FILE, ExportResult, Progress, check_plan, report
from rldg_data.running.staging import publish, staging

MARKER_FILE = "dataset_info.json"
MAX_SHARD_BYTES = 256 * 2**20
"""Enough shards to read in parallel, few enough to copy."""
MIN_SHARD_BYTES = 16 * 2**20
PARTS = 8
"""Smaller datasets are cut into so many shards, so that workers share the work whatever their number."""


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
    """Write `<root>/<plan.name>/<plan.version>`; the same plan and bags give the same bytes, whoever does the work.

    With skip_bad, episodes that cannot be built are left out and listed in the result and in export_report.json.
    shard_bytes: about the size of a shard; default: by the size of the plan. An export that was killed, cancelled or
    failed leaves its complete shards in a hidden folder beside, and the next one of the same plan goes on from them.
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
            raise UserError(f"{path}: no episode of split train is left: {len(bad)} bad, first: {bad[0][1]}")
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
            raise UserError(f"{episode.name}: other cameras than the first episode's {', '.join(keys)}")
    for key in keys:
        if f"observation/{key}" in layout.STEP_SHAPES:
            raise UserError(f"dataset {plan.name}: image key {key!r}: that of another feature")


def _jobs(plan: Plan, folder: Path, skip_bad: bool, shard_bytes: int | None) -> list[ShardJob]:
    sizes, made_of = _first(plan, skip_bad)
    total = sum(episode.num_bytes for episode in plan.episodes)
    target = shard_bytes or min(max(total // PARTS, MIN_SHARD_BYTES), MAX_SHARD_BYTES)
    jobs = []
    for split in SPLITS:
        parts = shards_of([episode for episode in plan.episodes if episode.split == split], target)
        jobs += [ShardJob(folder, split, index, part, sizes, made_of, skip_bad) for index, part in enumerate(parts)]
    return jobs


def _first(plan: Plan, skip_bad: bool) -> tuple[layout.ImageSizes, MadeOf]:
    """What all episodes must be like: image sizes and what they are made of, as in the first one that can be read."""
    reason = ""
    for episode in plan.episodes:
        try:
            return _likeness(episode)
        except UserError as error:
            if not skip_bad:
                raise
            reason = reason or str(error)
    raise UserError(f"dataset {plan.name}: none of {len(plan.episodes)} episodes can be read, first: {reason}")


def _likeness(episode: EpisodePlan) -> tuple[layout.ImageSizes, MadeOf]:
    from rldg_data.episodes.build import build_episode

    first = build_episode(replace(episode, relabel=None))
    sizes = {key: jpeg_size(files[0]) for key, files in first.images.items()}
    return sizes, MadeOf.of(provenance.parts(first.metadata))


def _write_shards(
    jobs: Sequence[ShardJob], episodes: int, workers: int, engine: Engine, progress: Progress | None
) -> tuple[list[Shard], int]:
    """The shards in the plan's order, and the number of episodes that were there already."""
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
        # Only a serial run hears of single episodes.
        within += 1
        if progress:
            progress(min(done + within, episodes), episodes)

    # The disk is busy with one shard while the next one is built, so that `publish` has little to wait for.
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
    """Everything of the dataset in one folder; small files first, for they take the time."""
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
