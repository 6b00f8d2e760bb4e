"""Bags -> learner: demonstrations at start, and the online episodes of a run that is resumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rldg_core.errors import UserError
from rldg_data.bags import find_bags, read_episode
from rldg_rl.checkpoint import newest_checkpoint, restore
from rldg_rl.learner import Learner


@dataclass(frozen=True)
class Start:
    """What a learner started with.

    failed_demonstrations: found and left out; missing_episodes: the checkpoint counts them, no bag holds them.
    """

    demonstrations: int
    failed_demonstrations: int
    resumed_from: Path | None
    recorded_episodes: int
    missing_episodes: int


def prepare(learner: Learner, demo_bag_dirs: Iterable[Path], run_dir: Path) -> Start:
    """Load the successful demonstrations; resume from the newest checkpoint of `run_dir` and from its `bags` folder.

    Bags are read in the order of their numbers, so that the same files give the same learner. Raises UserError
    on a damaged bag or checkpoint, and when an episode is of another task.
    """
    demonstrations = failed = 0
    for directory in demo_bag_dirs:
        for bag in find_bags(directory):
            steps = read_episode(bag)
            if steps[0].task != learner.task.name:
                raise UserError(f"{bag}: episode of task {steps[0].task!r}, the learner trains {learner.task.name!r}")
            # As HIL-SERL's recorder, which keeps successful demonstrations only.
            if steps[-1].success:
                learner.add_demonstration(steps)
                demonstrations += 1
            else:
                failed += 1
    checkpoint = newest_checkpoint(run_dir)
    if checkpoint is None:
        learner.train_on_demonstrations()
    else:
        restore(learner, checkpoint)
    bag_dir = run_dir / "bags"
    episodes = [read_episode(bag) for bag in find_bags(bag_dir)] if bag_dir.is_dir() else []
    missing = learner.rebuild({steps[0].episode_id: steps for steps in episodes})
    return Start(demonstrations, failed, checkpoint, len(episodes), missing)
