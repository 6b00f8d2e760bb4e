"""Select the bags of a dataset: globs, filters, caps, balance, in a shuffled order given by the seed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from glob import glob
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_core.types import Float64, Step
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.reading import bag_info, episode_of, find_bags, read_episode
from rldg_data.episodes.gripper import opening
from rldg_data.plausibility import NO_OP_M, NO_OP_RAD
from rldg_data.recipe.recipe import Filter

T = TypeVar("T")


@dataclass(frozen=True)
class RecordedBag:
    """A bag and its metadata; num_bytes: of its files."""

    path: Path
    info: EpisodeInfo
    num_bytes: int


@dataclass(frozen=True)
class Candidate:
    """An episode that the dataset may hold: bags in order, joints as in EpisodePlan, source: number in the recipe."""

    parts: tuple[RecordedBag, ...]
    source: int
    joints: tuple[int, ...] = ()

    @property
    def object(self) -> str:
        """All parts have the same."""
        return self.parts[0].info.object

    @property
    def steps(self) -> int:
        """Transitions."""
        return sum(self.joints) + self.parts[-1].info.steps


class Caps(Protocol):
    """What Source and Recipe share."""

    @property
    def max_episodes(self) -> int | None: ...
    @property
    def max_episodes_per_object(self) -> int | None: ...
    @property
    def max_steps(self) -> int | None: ...


@dataclass
class Bookkeeping:
    """left_out: key of the recipe -> bags or episodes; bad: unreadable bags, skipped only with skip_bad."""

    skip_bad: bool
    left_out: Counter[str] = field(default_factory=Counter)
    bad: dict[Path, str] = field(default_factory=dict)

    def attempt(self, bag: Path, read: Callable[[Path], T]) -> T | None:
        """Return the result of `read`; None for a bad bag. Raises its UserError unless bad bags are skipped."""
        if bag in self.bad:
            return None
        try:
            return read(bag)
        except UserError as error:
            if not self.skip_bad:
                raise
            self.bad[bag] = str(error)
            return None


def expand(patterns: Sequence[str], base: Path, where: str) -> list[Path]:
    """The bags that globs match: bag folders themselves, or those in matched folders; resolved, each once, sorted.

    Raises UserError `where: ...` when a pattern matches no folder, or no bag.
    """
    bags: set[Path] = set()
    for pattern in patterns:
        folders = [base / name for name in glob(pattern, root_dir=base, recursive=True)]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            raise UserError(f"{where}: {pattern!r}: no such directory of bags")
        found = [b for f in folders for b in ([f] if (f / "metadata.yaml").is_file() else find_bags(f))]
        if not found:
            raise UserError(f"{where}: {pattern!r}: no bags (folders episode_<number>) found")
        bags.update(bag.resolve() for bag in found)
    return sorted(bags)


def read_all(bags: Iterable[Path], books: Bookkeeping) -> list[RecordedBag]:
    """Read the metadata of the bags."""
    found = (books.attempt(bag, _recorded_bag) for bag in bags)
    return [recorded for recorded in found if recorded is not None]


def _recorded_bag(bag: Path) -> RecordedBag:
    info = bag_info(bag)
    try:
        num_bytes = sum(file.stat().st_size for file in info.files)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot read: {error.strerror}") from error
    return RecordedBag(bag, episode_of(info), num_bytes)


def filtered(bags: Iterable[RecordedBag], wanted: Filter, books: Bookkeeping) -> list[RecordedBag]:
    """Return the bags that pass the filter."""
    kept = []
    for bag in bags:
        reason = reason_against(bag, wanted)
        if not reason and wanted.no_op_ratio is not None:
            ratio = books.attempt(bag.path, lambda path, info=bag.info: no_op_ratio(read_episode(path), info))  # type: ignore[misc]
            if ratio is None:
                continue
            reason = "" if wanted.no_op_ratio.holds(ratio) else "filter.no_op_ratio"
        if reason:
            books.left_out[reason] += 1
        else:
            kept.append(bag)
    return kept


def reason_against(bag: RecordedBag, wanted: Filter) -> str:
    """Key of the first filter that the bag's metadata fails, "" when it passes. Raises UserError on an invalid wall
    time if dates are filtered."""
    info = bag.info
    checks: dict[str, Callable[[], bool]] = {
        "steps": lambda: info.steps >= 1 and (wanted.steps is None or wanted.steps.holds(info.steps)),
        "success": lambda: wanted.success is None or info.success == wanted.success,
        "source": lambda: wanted.source is None or info.source in wanted.source,
        "policy_id": lambda: wanted.policy_id is None or info.policy_id in wanted.policy_id,
        "policy_version": lambda: wanted.policy_version is None or wanted.policy_version.holds(info.policy_version),
        "objects": lambda: wanted.objects is None or info.object in wanted.objects,
        "tasks": lambda: wanted.tasks is None or info.task in wanted.tasks,
        "date": lambda: wanted.date is None or wanted.date.holds(_day(bag)),
    }
    return next((f"filter.{name}" for name, passes in checks.items() if not passes()), "")


def _day(bag: RecordedBag) -> object:
    try:
        time = datetime.fromisoformat(bag.info.wall_time)
    except ValueError as error:
        raise UserError(
            f"{bag.path}: custom_data.wall_time: {bag.info.wall_time!r} is not a time (ISO 8601)"
        ) from error
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).astimezone(timezone.utc).date()


def no_op_ratio(steps: Sequence[Step], info: EpisodeInfo) -> float:
    """Share of the transitions whose executed delta is below NO_OP_M and NO_OP_RAD and leaves the gripper alone."""
    acted = [step for step in steps if not step.is_last]
    executed = [step.action.executed for step in acted]
    if not executed or len({len(values) for values in executed}) > 1 or len(executed[0]) < 6:
        return 0.0  # nothing to judge, or refused by `build`
    rows: Float64 = np.array(executed, dtype=np.float64)
    still = (np.linalg.norm(rows[:, :3], axis=1) * info.action_scale_m < NO_OP_M) & (
        np.linalg.norm(rows[:, 3:6], axis=1) * info.action_scale_rad < NO_OP_RAD
    )
    if rows.shape[1] == 7:
        grip = opening(rows[:, 6], [step.action.source for step in acted], acted[0].observation.gripper_width_m)
        still[1:] &= grip[1:] == grip[:-1]
    return float(np.mean(still))


def rank(candidate: Candidate, seed: int) -> tuple[int, tuple[str, ...]]:
    """Position in the shuffled order, independent of paths and listing order."""
    labels = [text for part in candidate.parts for text in (part.info.episode_id, part.path.name)]
    return derive_seed(seed, "order", *labels), tuple(str(part.path) for part in candidate.parts)


def take(ranked: Sequence[Candidate], caps: Caps, left_out: Counter[str], *, balanced: bool = False) -> list[Candidate]:
    """The first candidates that fit the caps; balanced: equally many of every object, taken in rounds of one each."""
    per_object: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in ranked:
        per_object[candidate.object].append(candidate)
    if caps.max_episodes_per_object is not None:
        for name, members in per_object.items():
            left_out["max_episodes_per_object"] += max(0, len(members) - caps.max_episodes_per_object)
            per_object[name] = members[: caps.max_episodes_per_object]
    if balanced:
        rounds = list(zip_longest(*per_object.values()))
        units = [unit for unit in rounds if None not in unit]
        left_out["balance"] += sum(len(m) for m in per_object.values()) - sum(map(len, units))
    else:
        kept = {id(c) for members in per_object.values() for c in members}
        units = [(candidate,) for candidate in ranked if id(candidate) in kept]
    return _prefix(units, caps, left_out)


def _prefix(units: Sequence[tuple[Candidate, ...]], caps: Caps, left_out: Counter[str]) -> list[Candidate]:
    taken: list[Candidate] = []
    steps = 0
    for number, unit in enumerate(units):
        steps += sum(candidate.steps for candidate in unit)
        reason = ""
        if caps.max_episodes is not None and len(taken) + len(unit) > caps.max_episodes:
            reason = "max_episodes"
        elif caps.max_steps is not None and steps > caps.max_steps:
            reason = "max_steps"
        if reason:
            left_out[reason] += sum(map(len, units[number:]))
            break
        taken += unit
    return taken
