"""Feeds bags to the learner: demonstrations and earlier runs at start, the run's own episodes when it is resumed.

The state of the learner is a function of the Steps it consumed and their order; a checkpoint only saves time. To
resume, the newest checkpoint that has a bag for each of its episodes is restored, its Steps refill replay, and the
Steps recorded after it are consumed as if they arrived now. Without such a checkpoint, all bags are consumed.

Bags of a watched folder are learned from during the run; a journal keeps which, and when. A recorder renames a
bag to its final name when it is complete, so every folder with such a name can be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import parse_json, read_text
from rldg_core.types import Step
from rldg_data.bags.reading import episode_info, find_bags, read_episode
from rldg_data.plausibility import Limits, rate, refuse
from rldg_rl.checkpoint import checkpoints, consumed_episodes, remove_checkpoint, remove_partials, restore
from rldg_rl.learner import Learner
from rldg_rl.step_reader import EpisodeChecksums
from rldg_rl.views import check_bag_view


class WatchedFolder:
    """Finds the bags that are new in a folder, in the order of their numbers."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError when the folder is missing."""
        self._directory = directory
        self._known: set[Path] = set()
        find_bags(directory)

    def new_bags(self) -> list[Path]:
        """Return the bags that appeared since the last call; none while the folder does not exist."""
        found = find_bags(self._directory) if self._directory.is_dir() else []
        new = [bag for bag in found if bag not in self._known]
        self._known.update(new)
        return new


@dataclass(frozen=True)
class Journal:
    """`<run>/watched.jsonl`: the episode of the run after which each watched bag was consumed ("": before the first).

    A line is written before its bag is consumed, so that a resumed run consumes the bag at the same place.
    """

    run_dir: Path

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.run_dir / "watched.jsonl"

    def append(self, bag: Path, after_episode_id: str) -> None:
        """Append a line and sync the file. Raises UserError when it cannot be written."""
        line = json.dumps({"bag": str(bag.absolute()), "after": after_episode_id}) + "\n"
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.path}: cannot write: {error.strerror or error}") from error

    def read(self, read_bag: Callable[[Path], list[Step]]) -> list[tuple[str, list[Step]]]:
        """Return (after, Steps) of every bag in the journal. Raises UserError on a damaged line or bag.

        A last line without a newline is removed: its bag was not consumed before the process ended.
        """
        if not self.path.is_file():
            return []
        text = read_text(self.path)
        lines = text[: text.rfind("\n") + 1].splitlines()
        try:
            entries = [
                (str(value["after"]), Path(value["bag"]))
                for value in (parse_json(line, str(self.path)) for line in lines)
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: line not understood: {error!r}") from error
        if len(text) > text.rfind("\n") + 1:
            os.truncate(self.path, len(text[: text.rfind("\n") + 1].encode()))
        return [(after, read_bag(bag)) for after, bag in entries]


@dataclass(frozen=True)
class StartSummary:
    """What a learner started with.

    failed_demonstrations: demonstrations without success, which are left out; missing_episodes: episodes that the
    checkpoint has learned from and no bag holds.
    """

    demonstrations: int
    failed_demonstrations: int
    earlier_episodes: int
    resumed_from: Path | None
    recorded_episodes: int
    missing_episodes: int


def read_bag(bag: Path, learner: Learner) -> list[Step]:
    """Return the Steps of a bag. Raises UserError naming a damaged bag, or one of another task, rate, view or scale."""
    steps, info, task = read_episode(bag), episode_info(bag), learner.task
    if steps[0].task != task.name:
        raise UserError(f"{bag}: episode of task {steps[0].task!r}, the learner trains {task.name!r}")
    stamps_s = [step.observation.stamp_ns * 1e-9 for step in steps]
    refuse(rate(stamps_s, task.rates.control_hz, Limits()), f"{bag}: task {task.name}")
    features = learner.config.features
    if features.image_encoder != "none" and features.camera in task.cameras:
        check_bag_view(bag, info, task, features.camera)
    scale = (info.action_scale_m, info.action_scale_rad)
    if scale != (task.action.scale_m, task.action.scale_rad):
        raise UserError(
            f"{bag}: actions of {scale[0]} m, {scale[1]} rad; task {task.name} has "
            f"{task.action.scale_m} m, {task.action.scale_rad} rad"
        )
    return steps


def prepare(
    learner: Learner,
    demo_bag_dirs: Iterable[Path],
    run_dir: Path,
    extra_bag_dirs: Iterable[Path] = (),
    exact: bool = False,
) -> StartSummary:
    """Load successful demonstrations and earlier runs; resume from the checkpoints and the `bags` folder of `run_dir`.

    Bags are read in the order of their numbers, so that the same files give the same learner. exact: skip a
    checkpoint that has learned from an episode without a bag, because that episode will be run again. Raises UserError
    on a damaged bag or checkpoint, on an episode of another task, and on one without a usable Step.
    """
    demonstrations = failed = earlier = 0
    for bag, steps in _read_all(demo_bag_dirs, learner):
        # HIL-SERL records successful demonstrations only.
        if steps[-1].success:
            _add(bag, learner.add_demonstration, steps)
            demonstrations += 1
        else:
            failed += 1
    for bag, steps in _read_all(extra_bag_dirs, learner):
        _add(bag, learner.add_earlier, steps)
        earlier += 1
    remove_partials(run_dir)
    bag_dir = run_dir / "bags"
    own = [steps for _, steps in _read_all([bag_dir] if bag_dir.is_dir() else [], learner)]
    watched = Journal(run_dir).read(lambda bag: read_bag(bag, learner))
    checkpoint, missing = _resume(learner, run_dir, _merge(own, watched), exact=exact and bag_dir.is_dir())
    return StartSummary(demonstrations, failed, earlier, checkpoint, len(own), missing)


def _resume(
    learner: Learner, run_dir: Path, episodes: Sequence[tuple[list[Step], bool]], exact: bool
) -> tuple[Path | None, int]:
    lengths = {steps[0].episode_id: len(steps) for steps, _ in episodes}
    checkpoint = None
    missing = 0
    for folder in reversed(checkpoints(run_dir)):
        consumed = consumed_episodes(folder)
        missing = sum(lengths.get(name, 0) < count for name, count in consumed.items())
        if not missing or not exact:
            checkpoint = folder
            break
    if checkpoint:
        restore(learner, checkpoint)
        # Newer checkpoints have learned from an episode that is lost and will be run again.
        for folder in reversed(checkpoints(run_dir)):
            if folder == checkpoint:
                break
            remove_checkpoint(folder)
    else:
        learner.train_on_demonstrations()
        learner.first_weights()
        for folder in checkpoints(run_dir):
            remove_checkpoint(folder)
    found = EpisodeChecksums()
    for steps, live in episodes:
        known = [step for step in steps if step in learner.progress.seen]
        if checkpoint and len(known) == learner.progress.seen.count(steps[0].episode_id):
            for step in known:
                found.add(step)
        learner.refill(known)
        new = [step for step in steps if not learner.knows(step)]
        if live:
            for step in new:
                learner.consume(step)
        else:
            learner.consume_recorded(new)
    learner.progress.content.check_among(found, f"{run_dir}: resuming")
    return checkpoint, missing if checkpoint else 0


def _merge(own: Sequence[list[Step]], watched: Sequence[tuple[str, list[Step]]]) -> list[tuple[list[Step], bool]]:
    """Return the run's own episodes (True) and those of watched bags (False), in the order of consumption."""
    after: dict[str, list[list[Step]]] = {}
    for name, steps in watched:
        after.setdefault(name, []).append(steps)
    merged = [(steps, False) for steps in after.pop("", [])]
    for steps in own:
        merged += [(steps, True), *((extra, False) for extra in after.pop(steps[0].episode_id, []))]
    return merged + [(steps, False) for rest in after.values() for steps in rest]


def _read_all(directories: Iterable[Path], learner: Learner) -> Iterator[tuple[Path, list[Step]]]:
    for directory in directories:
        for bag in find_bags(directory):
            yield bag, read_bag(bag, learner)


def _add(bag: Path, add: Callable[[Sequence[Step]], None], steps: Sequence[Step]) -> None:
    try:
        add(steps)
    except UserError as error:
        raise UserError(f"{bag}: {error}") from error
