"""Plan -> LeRobot dataset v3: episodes are encoded by any engine, written in order, published by one rename."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex, write_json
from rldg_data.lerobot.encoding import EncodedEpisode, encode_episode
from rldg_data.lerobot.layout import INFO_PATH
from rldg_data.lerobot.writing import DatasetWriter
from rldg_data.recipe.plan import EpisodePlan, Plan
from rldg_data.rlds.export import REPORT_FILE, ExportResult, Progress
from rldg_data.rlds.layout import SPLITS, is_valid_name, is_valid_version
from rldg_data.running import engines
from rldg_data.running.engines import Beat, Engine
from rldg_data.running.staging import publish, staging


@dataclass(frozen=True)
class _Job:
    """One episode; stem: where its video streams go, on a disk that all workers see."""

    number: int
    plan: EpisodePlan
    stem: Path


@dataclass(frozen=True)
class _Done:
    """episode None: it is unfit, for that reason."""

    number: int
    episode: EncodedEpisode | None
    reason: str = ""


@dataclass
class _InOrder:
    """Hands results, which come in any order, to the writer in the plan's."""

    plan: Plan
    writer: DatasetWriter
    skip_bad: bool
    progress: Progress | None
    bad: list[tuple[Path, str]]
    waiting: dict[int, _Done] = field(default_factory=dict)
    number: int = 0

    def take(self, done: _Done) -> None:
        """Write what is due. Raises UserError on an unfit episode, unless those are passed over."""
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
        """Tell how far it is; the one who is told may cancel."""
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
    """Write `<root>/<plan.name>/<plan.version>`; the same plan and bags give the same bytes, whoever does the work.

    With skip_bad, episodes that are unfit are left out and listed in the result and in export_report.json. What a
    killed export left is removed by the next one, which begins anew. Raises UserError when the plan cannot be written,
    a bag is damaged, the disk is full or another export is at it; whatever stood there before stays.
    """
    _check(plan, workers)
    path = root / plan.name / plan.version
    with staging(path, sha256_hex(f"lerobot {plan.sha256()}".encode()), INFO_PATH, overwrite) as aside:
        _clear(aside)
        folder, pieces = aside / "dataset", aside / "pieces"
        writer = DatasetWriter(folder)
        order = _InOrder(plan, writer, skip_bad, progress, list(plan.bad))
        try:
            folder.mkdir()
            pieces.mkdir()
            jobs = [_Job(number, episode, pieces / f"{number:06d}") for number, episode in enumerate(plan.episodes)]
            engines.run(_encode, jobs, order.take, order.beat, workers=workers, engine=engine)
            if not writer.splits.get("train"):
                raise UserError(f"{path}: no episode of split train is left: {len(order.bad)} bad, {order.bad[0][1]}")
            writer.close()
            result = ExportResult(
                path, writer.splits, writer.frames + sum(writer.splits.values()), plan.left_out, tuple(order.bad), 0
            )
            write_json(folder / REPORT_FILE, _report(result, plan))
            publish(folder, path)
        finally:
            writer.abort()
            _clear(aside)
    return result


def _encode(job: _Job, beat: Beat) -> _Done:
    """The work of an engine. That an episode is unfit is a result: what to do about it is the caller's choice."""
    beat()
    try:
        return _Done(job.number, encode_episode(job.plan, job.stem))
    except UserError as error:
        return _Done(job.number, None, str(error))


def _check(plan: Plan, workers: int) -> None:
    if not is_valid_name(plan.name):
        raise UserError(
            f"dataset name {plan.name!r}: expected lower-case letters, digits and _, starting with a letter"
        )
    if not is_valid_version(plan.version):
        raise UserError(f"dataset version {plan.version!r}: expected MAJOR.MINOR.PATCH, e.g. 1.0.0")
    if workers < 1:
        raise UserError(f"workers {workers}: expected at least 1")
    for episode in plan.episodes:
        if episode.split not in SPLITS:
            raise UserError(f"{episode.name}: split {episode.split!r}, expected one of {', '.join(SPLITS)}")
        for key, _ in episode.cameras:
            if not is_valid_name(key):
                raise UserError(f"dataset {plan.name}: image key {key!r}: expected lower-case letters, digits and _")
    if not any(episode.split == "train" for episode in plan.episodes):
        raise UserError(f"dataset {plan.name}: no episode in split train")


def _report(result: ExportResult, plan: Plan) -> dict[str, object]:
    return {
        "episodes": dict(result.episodes),
        "steps": result.steps,
        "left_out": dict(result.left_out),
        "bad": [{"bag": str(bag), "reason": reason} for bag, reason in result.bad],
        "recipe": json.loads(plan.recipe) if plan.recipe else None,
    }


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        shutil.rmtree(item)
