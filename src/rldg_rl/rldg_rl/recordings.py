"""Bags -> learner: demonstrations and earlier runs at start, the run's own episodes when it is resumed.

Resuming: everything the learner is follows from the Steps it consumed, in their order. So a checkpoint is only a
short cut: the newest one whose episodes all have their bags is restored, its Steps go back into replay, and the
Steps after it are consumed as if they arrived now. Without such a checkpoint all bags are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.types import Step
from rldg_data.bags.reading import episode_info, find_bags, read_episode
from rldg_data.plausibility import Limits, rate, refuse
from rldg_rl.checkpoint import checkpoints, consumed_episodes, remove_checkpoint, remove_partials, restore
from rldg_rl.intake import Content
from rldg_rl.learner import Learner
from rldg_rl.views import check_bag_view
from rldg_rl.watching import Journal


@dataclass(frozen=True)
class Start:
    """What a learner started with.

    failed_demonstrations: found and left out; missing_episodes: the checkpoint counts them, no bag holds them.
    """

    demonstrations: int
    failed_demonstrations: int
    earlier_episodes: int
    resumed_from: Path | None
    recorded_episodes: int
    missing_episodes: int


def read_bag(bag: Path, learner: Learner) -> list[Step]:
    """Steps of a bag. Raises UserError naming the bag: damaged, another task, rate, view, or scale of actions."""
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
    lockstep: bool = False,
) -> Start:
    """Load successful demonstrations and earlier runs; resume from the checkpoints and the `bags` folder of `run_dir`.

    Bags are read in the order of their numbers, so that the same files give the same learner. lockstep: a checkpoint
    that counts an episode without a bag is passed over, since that episode will be run again. Raises UserError on a
    damaged bag or checkpoint, and when an episode is of another task or holds nothing usable.
    """
    demonstrations = failed = earlier = 0
    for bag, steps in _read_all(demo_bag_dirs, learner):
        # As HIL-SERL's recorder, which keeps successful demonstrations only.
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
    checkpoint, missing = _resume(learner, run_dir, _merge(own, watched), exact=lockstep and bag_dir.is_dir())
    return Start(demonstrations, failed, earlier, checkpoint, len(own), missing)


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
        # Newer ones hold an episode that is lost and will be run again.
        for folder in reversed(checkpoints(run_dir)):
            if folder == checkpoint:
                break
            remove_checkpoint(folder)
    else:
        learner.train_on_demonstrations()
        learner.first_weights()
        for folder in checkpoints(run_dir):
            remove_checkpoint(folder)
    found = Content()
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
    """The run's own episodes (True) and those that bags brought meanwhile (False), in the order of consumption."""
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
