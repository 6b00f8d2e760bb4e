"""Which bags a dataset takes, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_data.bags import bag_info, find_bags
from rldg_data.episode_info import EpisodeInfo
from rldg_data.plan import EpisodePlan
from rldg_data.recipe import BagSource, Recipe


@dataclass(frozen=True)
class Recorded:
    """A bag and what it says of itself; num_bytes: of its file."""

    path: Path
    info: EpisodeInfo
    num_bytes: int


@dataclass
class Selection:
    """left_out: reason -> bags; bad: unreadable ones (skip_bad)."""

    seed: int
    skip_bad: bool
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[Path, str]] = field(default_factory=list)

    def choose(self, recipe: Recipe, base: Path) -> list[EpisodePlan]:
        chosen: list[EpisodePlan] = []
        for number, source in enumerate(recipe.sources):
            bags = expand(source.bags, base, f"sources.{number}.bags")
            recorded = sorted(self.read(bags), key=lambda r: rank(r, self.seed))
            chosen += [EpisodePlan("train", (r.path,), num_bytes=r.num_bytes) for r in self.filtered(recorded, source)]
        if not chosen:
            raise UserError(f"{recipe.name}: none of the episodes passes the filters")
        return chosen

    def read(self, bags: Iterable[Path]) -> Iterator[Recorded]:
        for bag in bags:
            try:
                info = bag_info(bag)
                yield Recorded(bag, EpisodeInfo.from_custom_data(info.custom_data, str(bag)), info.file.stat().st_size)
            except UserError as error:
                if not self.skip_bad:
                    raise
                self.bad.append((bag, str(error)))

    def filtered(self, bags: Sequence[Recorded], source: BagSource) -> list[Recorded]:
        kept = []
        for bag in bags:
            if bag.info.steps < 1:
                self.left_out["no transition"] += 1
            elif source.filter.success is not None and bag.info.success != source.filter.success:
                self.left_out["success"] += 1
            elif source.filter.source is not None and bag.info.source not in source.filter.source:
                self.left_out["source"] += 1
            else:
                kept.append(bag)
        return kept


def rank(bag: Recorded, seed: int) -> tuple[int, str]:
    """Place of a bag in the shuffled order: by its episode, not by where it lies."""
    return derive_seed(seed, "order", bag.info.episode_id, bag.path.name), str(bag.path)


def expand(patterns: Sequence[str], base: Path, where: str) -> list[Path]:
    """The bags that globs match: bag folders themselves, or those in matched folders; resolved, each once.

    Raises UserError `where: ...` when a pattern matches no folder, or no bag.
    """
    bags: dict[Path, None] = {}
    for pattern in patterns:
        folders = [base / name for name in glob(pattern, root_dir=base, recursive=True)]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            raise UserError(f"{where}: {pattern!r}: no such folder below {base}")
        found = [b for f in folders for b in ([f] if (f / "metadata.yaml").is_file() else find_bags(f))]
        if not found:
            raise UserError(f"{where}: {pattern!r}: no bags (folders episode_<number>) found")
        bags.update(dict.fromkeys(bag.resolve() for bag in found))
    return sorted(bags)
