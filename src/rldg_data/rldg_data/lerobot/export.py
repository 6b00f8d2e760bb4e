"""Plan -> LeRobot dataset v3: episodes are encoded in worker processes and written in the order of the plan."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rldg_core.errors import UserError
from rldg_core.files import write_json, writing_aside
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


def export_plan(
    plan: Plan,
    root: Path,
    *,
    workers: int = 1,
    engine: Literal["processes", "ray"] = "processes",
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
    bad = list(plan.bad)
    with writing_aside(path) as folder:
        folder.mkdir()
        writer = DatasetWriter(folder)
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".pieces-") as pieces:
                results = _encoded(plan.episodes, Path(pieces), workers)
                for done, (episode, get) in enumerate(zip(plan.episodes, results, strict=True)):
                    try:
                        writer.add(get(), episode.split, episode.name)
                    except UserError as error:
                        if not skip_bad:
                            raise
                        bad += [(bag, str(error)) for bag in episode.bags]
                    if progress:
                        progress(done + 1, len(plan.episodes))
            if not writer.frames:
                raise UserError(f"{plan.name}: none of {len(plan.episodes)} episodes is fit; the first: {bad[0][1]}")
            writer.close()
        except BaseException:
            writer.abort()
            raise
        result = ExportResult(path, writer.splits, writer.frames, plan.left_out, tuple(bad), 0)
        write_json(folder / REPORT, {})
    return result


def _encoded(plans: Sequence[EpisodePlan], folder: Path, workers: int) -> Iterator[Callable[[], EncodedEpisode]]:
    """Calls that give the episodes in order; at most two per worker are on their way, so memory and disk stay small."""
    stems = [folder / f"{number:06d}" for number in range(len(plans))]
    if workers == 1:
        for plan, stem in zip(plans, stems, strict=True):
            yield lambda plan=plan, stem=stem: encode_episode(plan, stem)  # type: ignore[misc]
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        pending: deque[Future[EncodedEpisode]] = deque()
        remaining = iter(zip(plans, stems, strict=True))
        try:
            for _ in plans:
                while len(pending) < 2 * workers and (job := next(remaining, None)):
                    pending.append(pool.submit(encode_episode, *job))
                yield pending.popleft().result
        finally:
            pool.shutdown(cancel_futures=True)
