"""Plan -> LeRobot dataset v3: episodes are encoded by an engine's workers and written in the order of the plan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import write_json, writing_aside
from rldg_data import engines
from rldg_data.engines import Beat, Engine
from rldg_data.lerobot.encoding import EncodedEpisode, encode_episode
from rldg_data.lerobot.layout import INFO_PATH
from rldg_data.lerobot.writing import DatasetWriter
from rldg_data.plan import EpisodePlan, Plan

REPORT = "export_report.json"


@dataclass(frozen=True)
class ExportResult:
    path: Path
    episodes: Mapping[str, int]
    steps: int
    left_out: Mapping[str, int]
    bad: tuple[tuple[Path, str], ...]
    resumed: int


@dataclass(frozen=True)
class _Job:
    """One episode; stem: where its video streams go, on a disk that all workers see."""

    number: int
    plan: EpisodePlan
    stem: Path


@dataclass(frozen=True)
class _Done:
    number: int
    episode: EncodedEpisode | None
    reason: str = ""


@dataclass
class _InOrder:
    """Hands results, which come in any order, to the writer in the order of the plan."""

    plan: Plan
    writer: DatasetWriter
    skip_bad: bool
    progress: Callable[[int, int], None] | None
    bad: list[tuple[Path, str]]
    waiting: dict[int, _Done] = field(default_factory=dict)
    number: int = 0

    def take(self, done: _Done) -> None:
        """Write what is due. Raises UserError on an unfit episode, unless those are skipped."""
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
    progress: Callable[[int, int], None] | None = None,
) -> ExportResult:
    """Write the plan as `<root>/<name>/<version>`; the same plan and bags give the same bytes for any workers.

    The folder appears when it is complete, by one rename; an interrupted export starts again. skip_bad: episodes that
    are unfit are left out, counted in the result and listed in export_report.json; otherwise the first one ends the
    export. steps of the result are frames of LeRobot, i.e. transitions. Raises UserError.
    """
    path = root / plan.name / plan.version
    if path.exists() and not overwrite:
        raise UserError(f"{path}: exists already; ask for overwriting or choose another version")
    if path.exists() and not (path / INFO_PATH).is_file():
        raise UserError(f"{path}: is not a LeRobot dataset and will not be replaced")
    if not plan.episodes:
        raise UserError(f"{plan.name}: the recipe leaves no episode")
    with writing_aside(path) as folder:
        folder.mkdir()
        writer = DatasetWriter(folder)
        order = _InOrder(plan, writer, skip_bad, progress, list(plan.bad))
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".pieces-") as pieces:
                jobs = [_Job(n, episode, Path(pieces) / f"{n:06d}") for n, episode in enumerate(plan.episodes)]
                engines.run(_encode, jobs, order.take, _no_beat, workers=workers, engine=engine)
            if not writer.frames:
                raise UserError(f"{plan.name}: none of {len(plan.episodes)} episodes is fit: {order.bad[-1][1]}")
            writer.close()
        except BaseException:
            writer.abort()
            raise
        result = ExportResult(path, writer.splits, writer.frames, plan.left_out, tuple(order.bad), 0)
        write_json(folder / REPORT, {})
    return result


def _encode(job: _Job, beat: Beat) -> _Done:
    """The work of an engine. An unfit episode is a result: what to do about it is the caller's choice."""
    beat()
    try:
        return _Done(job.number, encode_episode(job.plan, job.stem))
    except UserError as error:
        return _Done(job.number, None, str(error))


def _no_beat() -> None:
    """Nothing else is to be done meanwhile."""
