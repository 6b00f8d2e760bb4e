"""One pass over a dataset or over a folder of bags: episode by episode, in memory that does not grow with the frames.

Of every episode, three hashes, its rate and its name are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from rldg_core.errors import UserError
from rldg_data.bags.reading import find_bags
from rldg_data.episodes.build import build_episode
from rldg_data.episodes.episode import Episode
from rldg_data.lint.episode import CHECKS
from rldg_data.lint.findings import Findings, Limits, Problem, at
from rldg_data.lint.totals import (
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
from rldg_data.recipe.plan import EpisodePlan
from rldg_data.rlds import Dataset, read_dataset

Source = Iterable[tuple[Place, Episode | Problem]]


def lint(path: Path, limits: Limits | None = None) -> Findings:
    """Findings of a dataset `<root>/<name>/<version>`, of a folder of bags, or of a bag.

    Raises UserError when it is neither, or when a dataset is damaged: then there is nothing to judge.
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
    yield from lint_episodes(_of_bags(bags), limits, [ImageSizes(limits)])


def lint_episodes(source: Source, limits: Limits, further: Sequence[Total] = ()) -> Findings:
    """Findings of episodes in this order; of a Problem in the place of an episode, that problem."""
    totals: list[Total] = [Rates(limits), Constants(), Saturation(limits), Polarity(limits), Copies(), *further]
    for place, episode in source:
        if isinstance(episode, Problem):
            yield at(place.label, episode)
            continue
        for check in CHECKS:
            for problem in check(episode, limits):
                yield at(place.label, problem)
        for total in totals:
            for problem in total.add(place, episode):
                yield at(place.label, problem)
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
