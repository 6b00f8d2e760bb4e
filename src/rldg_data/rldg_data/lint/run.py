"""Lint a dataset or a folder of bags in one pass, with memory independent of the number of frames.

Three hashes, the rate and the name of every episode are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from rldg_core.errors import UserError
from rldg_core.task import Task
from rldg_data.bags.reading import UNFINISHED, find_bags
from rldg_data.episodes.build import build_episode
from rldg_data.episodes.episode import Episode
from rldg_data.lint.bag import BAG_CHECKS, against_task
from rldg_data.lint.bag_file import read_contents
from rldg_data.lint.episode import CHECKS
from rldg_data.lint.findings import Finding, Findings, Limits, Problem, finding_at
from rldg_data.lint.totals import (
    Cameras,
    Constants,
    Copies,
    ImageSizes,
    Place,
    Polarity,
    Rates,
    Saturation,
    Statistics,
    Total,
)
from rldg_data.plan import EpisodePlan
from rldg_data.rlds import Dataset, read_dataset

Source = Iterable[tuple[Place, Episode | Problem]]


FindTasks = Callable[[str], Sequence[Task]]
"""Name of a task -> its installed configuration, once per default object; empty: not installed."""


def lint(path: Path, limits: Limits | None = None, find_tasks: FindTasks = lambda name: ()) -> Findings:
    """Findings of a dataset `<root>/<name>/<version>`, of a folder of bags, or of a bag.

    Raises UserError when it is none of these, or a damaged dataset.
    """
    limits = limits or Limits()
    if (path / "dataset_info.json").is_file():
        dataset = read_dataset(path)
        with NamedTemporaryFile(prefix="rldg-lint-") as rows:
            totals = (Statistics(dataset.statistics, limits, rows), ImageSizes(limits, dict(dataset.image_sizes)))
            yield from lint_episodes(_of_dataset(dataset), limits, totals)
        return
    bags = [path] if (path / "metadata.yaml").is_file() else find_bags(path)
    if not bags:
        raise UserError(f"{path}: neither a dataset (no dataset_info.json) nor a folder of bags (episode_<number>)")
    yield from lint_bags(bags, limits, find_tasks)
    left = _unfinished(path)
    if left:
        message = f"{left} unfinished bags of a killed recorder: rldg bag repair {path}"
        yield Finding("warning", "unfinished", "", message)


def lint_bags(bags: Sequence[Path], limits: Limits, find_tasks: FindTasks = lambda name: ()) -> Findings:
    """Findings of bags: of their files, of their Steps, and of the episodes that an export makes of them."""
    seen: dict[str, str] = {}
    said: set[tuple[str, str]] = set()
    whole: list[Path] = []
    for bag in bags:
        contents, problems = read_contents(bag)
        if contents is not None:
            whole.append(bag)
            problems += [problem for check in BAG_CHECKS for problem in check(contents, limits)]
            problems += against_task(contents, limits, find_tasks(contents.info.task))
            twin = seen.setdefault(contents.info.episode_id, bag.name)
            if twin != bag.name:
                problems.append(Problem("error", "episode_id", f"the same episode id as {twin}"))
        for problem in problems:
            said.add((bag.name, problem.check))
            yield finding_at(bag.name, problem)
    refused = {name for name, _ in said}
    for finding in lint_episodes(_of_bags(whole), limits, [ImageSizes(limits)]):
        # Do not repeat findings of Steps for the arrays; a bag with errors need not be exportable.
        again = finding.check == "bag" and finding.episode in refused
        if not again and (finding.episode, finding.check) not in said:
            yield finding


def _unfinished(path: Path) -> int:
    left = [*path.glob(".episode_*.partial"), *(path / UNFINISHED).glob("*")]
    return sum(any(folder.rglob("*.mcap")) for folder in left)


def lint_episodes(source: Source, limits: Limits, further: Sequence[Total] = ()) -> Findings:
    """Findings of episodes in this order; of a Problem in the place of an episode, that problem."""
    totals: list[Total] = [
        Rates(limits),
        Cameras(),
        Constants(),
        Saturation(limits),
        Polarity(limits),
        Copies(),
        *further,
    ]
    for place, episode in source:
        if isinstance(episode, Problem):
            yield finding_at(place.label, episode)
            continue
        for check in CHECKS:
            for problem in check(episode, limits):
                yield finding_at(place.label, problem)
        for total in totals:
            for problem in total.add(place, episode):
                yield finding_at(place.label, problem)
    for total in totals:
        yield from total.end()


def _of_dataset(dataset: Dataset) -> Iterator[tuple[Place, Episode]]:
    for split in dataset.splits:
        for number, episode in enumerate(dataset.episodes(split)):
            yield Place(split, f"{split} {number} ({episode.metadata['episode_id']})"), episode


def _of_bags(bags: Sequence[Path]) -> Iterator[tuple[Place, Episode | Problem]]:
    for bag in bags:
        place = Place("", bag.name)
        try:
            yield place, build_episode(EpisodePlan("", (bag,)))
        except UserError as error:
            yield place, Problem("error", "bag", f"cannot be exported: {error}")
