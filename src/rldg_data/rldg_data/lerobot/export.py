"""Plan -> LeRobot dataset v3: episodes are encoded by any engine, written in order, published by one rename."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex, write_json
from rldg_data.lerobot.encoding import EncodedEpisode, encode_episode
from rldg_data.lerobot.layout import INFO_PATH
from rldg_data.lerobot.writing import DatasetWriter
from rldg_data.recipe.plan import EpisodePlan, Plan
from rldg_data.running import engines
from rldg_data.running.engines import Beat, Engine
from rldg_data.running.outcome import REPORT_FILE, ExportResult, Progress, check_plan, report
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
    check_plan(plan, workers)
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
            write_json(
                folder / REPORT_FILE,
                report(plan, result.episodes, result.steps, result.bad, writer.made_of, writer.tasks),
            )
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


def _clear(folder: Path) -> None:
    for item in folder.iterdir():
        shutil.rmtree(item)
