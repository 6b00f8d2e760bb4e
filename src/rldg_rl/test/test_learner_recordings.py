"""Start from bags: demonstrations, and resuming a run whose process was killed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rl_samples import insertion, random_episodes, small

from rldg_core.errors import UserError
from rldg_core.types import Source, Step
from rldg_data.bags.reading import find_bags
from rldg_data.bags.recording import write_episode
from rldg_rl.checkpoint import write_checkpoint
from rldg_rl.learner import Learner, Weights
from rldg_rl.recordings import Journal, WatchedFolder, prepare, read_bag


def record(folder: Path, count: int, length: int, seed: int = 0, task: str = "insertion") -> None:
    """Write random episodes as bags; every second one succeeds."""
    steps = random_episodes(count, length, seed)
    for k in range(count):
        part = [replace(s, task=task) for s in steps[k * (length + 1) : (k + 1) * (length + 1)]]
        write_episode(folder, part, insertion().model_copy(update={"name": task}))


def test_only_successful_demonstrations_are_used(tmp_path: Path) -> None:
    record(tmp_path / "demos", 3, 6)
    learner = Learner(small(), insertion(), 0)
    start = prepare(learner, [tmp_path / "demos"], tmp_path / "run")
    assert (start.demonstrations, start.failed_demonstrations, start.resumed_from) == (2, 1, None)
    assert len(learner.demonstrations) == learner.counters.demo_transitions == 12


def test_repeated_demonstration_counts_once(tmp_path: Path) -> None:
    record(tmp_path / "demos", 3, 6)
    learner = Learner(small(), insertion(), 0)
    prepare(learner, [tmp_path / "demos", tmp_path / "demos"], tmp_path / "run")
    assert (learner.counters.demo_transitions, learner.counters.duplicate_steps) == (12, 14)


CONFIG = small(demo_updates=5)
LENGTH, EPISODES = 9, 6
SOURCES = [Source.POLICY] * 4 + [Source.HUMAN] * 3 + [Source.POLICY] * 2
STEPS = random_episodes(EPISODES, LENGTH, sources=SOURCES)
EARLIER = [replace(step, episode_id="demo") for step in random_episodes(1, 8, seed=50)]


@dataclass
class Run:
    """A run as the learner node does it: bags close after their last Step, checkpoints at the end of episodes.

    issued: every published version, by the step from which it is valid.
    """

    folder: Path
    demos: Path
    issued: dict[int, str] = field(default_factory=dict)

    def start(self) -> Learner:
        """Start or resume. The recorder creates its folder when its first bag opens, whichever closes later."""
        (self.folder / "bags").mkdir(parents=True, exist_ok=True)
        learner = Learner(CONFIG, insertion(), 3)
        prepare(learner, [self.demos], self.folder, exact=True)
        self._note(list(learner.progress.issued))
        return learner

    def go_on(self, learner: Learner, until: int, checkpoint_every: int, unrecorded: bool = False) -> None:
        """Consume the Steps after the last closed bag, up to but without number `until` of the stream.

        unrecorded: the recorder was killed before it closed the last bag.
        """
        closed = len(find_bags(self.folder / "bags"))
        first = closed * (LENGTH + 1)
        assert learner.counters.episodes == closed
        for number in range(first, until):
            weights = learner.consume(STEPS[number])
            self._note([weights] if weights else [])
            if STEPS[number].is_last:
                if not (unrecorded and number >= until - 1):
                    write_episode(self.folder / "bags", STEPS[number - LENGTH : number + 1], insertion())
                if learner.counters.episodes % checkpoint_every == 0:
                    write_checkpoint(self.folder, learner)

    def _note(self, issued: list[Weights]) -> None:
        for weights in issued:
            assert self.issued.setdefault(weights.valid_from_step, weights.sha256) == weights.sha256


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Run, Learner]]:
    """Return checkpoint_every -> (run, learner) at the end."""

    @cache
    def make(checkpoint_every: int) -> tuple[Run, Learner]:
        folder = tmp_path_factory.mktemp("whole")
        write_episode(folder / "demos", EARLIER, insertion())
        run = Run(folder / "run", folder / "demos")
        learner = run.start()
        run.go_on(learner, len(STEPS), checkpoint_every)
        return run, learner

    return make


@example(cuts=[LENGTH + 1], checkpoint_every=1, unrecorded=True)
@example(cuts=[LENGTH + 1], checkpoint_every=1, unrecorded=False)
@settings(max_examples=12, deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(STEPS)), min_size=1, max_size=3).map(sorted),
    checkpoint_every=st.integers(1, 4),
    unrecorded=st.booleans(),
)
def test_run_killed_anywhere_and_resumed_equals_an_uninterrupted_one(
    cuts: list[int],
    checkpoint_every: int,
    unrecorded: bool,
    uninterrupted: Callable[[int], tuple[Run, Learner]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    whole, expected = uninterrupted(checkpoint_every)
    killed = Run(tmp_path_factory.mktemp("killed"), whole.demos)
    for cut in cuts:
        killed.go_on(killed.start(), cut, checkpoint_every, unrecorded)
        # Only the open episode, or the one whose bag did not close, is lost.
        assert len(find_bags(killed.folder / "bags")) >= cut // (LENGTH + 1) - unrecorded
    learner = killed.start()
    killed.go_on(learner, len(STEPS), checkpoint_every)
    assert killed.issued == whole.issued
    assert learner.counters == expected.counters
    assert learner.progress.seen.to_json() == expected.progress.seen.to_json()
    assert learner.progress.recent == expected.progress.recent
    for state, other in zip(jax.tree.leaves(learner.state), jax.tree.leaves(expected.state), strict=True):
        assert np.array_equal(state, other)


def test_real_time_run_resumes_from_the_newest_checkpoint_with_any_bags(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run / "bags", 1, 9)
    learner = Learner(small(), insertion(), 0)
    for step in random_episodes(3, 9):
        learner.consume(step)
    write_checkpoint(run, learner)
    resumed = Learner(small(), insertion(), 0)
    start = prepare(resumed, [], run)
    assert (start.recorded_episodes, start.missing_episodes) == (1, 2)
    assert resumed.counters == learner.counters
    assert (len(resumed.online), len(learner.online)) == (9, 27)


def elsewhere(seed: int) -> list[Step]:
    """Return an episode of another robot."""
    return [replace(step, episode_id=f"other/{seed}") for step in random_episodes(1, 9, seed=seed)]


def test_watched_bags_are_consumed_at_the_same_place_after_resuming(tmp_path: Path) -> None:
    run, steps = tmp_path / "run", random_episodes(3, 9)
    bags = [write_episode(tmp_path / "other", elsewhere(k), insertion()) for k in (70, 80)]
    whole = Learner(small(), insertion(), 0)
    whole.first_weights()
    folder = WatchedFolder(tmp_path / "other")
    assert folder.new_bags() == bags
    assert folder.new_bags() == []
    for k in range(3):
        part = steps[k * 10 : k * 10 + 10]
        for step in part:
            whole.consume(step)
        write_episode(run / "bags", part, insertion())
        if k < 2:
            Journal(run).append(bags[k], part[0].episode_id)
            whole.consume_recorded(read_bag(bags[k], whole))
    resumed = Learner(small(), insertion(), 0)
    with (run / "watched.jsonl").open("a") as file:
        file.write('{"bag": "half a li')
    prepare(resumed, [], run, exact=True)
    assert resumed.counters == replace(whole.counters, duplicate_steps=resumed.counters.duplicate_steps)
    assert resumed.first_weights().data == whole.first_weights().data
    Journal(run).append(bags[0], "")
    assert len(Journal(run).read(lambda bag: [])) == 3
    (run / "watched.jsonl").write_text("nonsense\n")
    with pytest.raises(UserError, match=r"watched\.jsonl: not valid JSON"):
        prepare(Learner(small(), insertion(), 0), [], run)


def test_demonstrations_of_another_task_and_missing_folders_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "demos", 1, 4, task="pick")
    learner = Learner(small(), insertion(), 0)
    with pytest.raises(UserError, match=r"episode_000000: episode of task 'pick', the learner trains 'insertion'"):
        prepare(learner, [tmp_path / "demos"], tmp_path / "run")
    with pytest.raises(UserError, match="nowhere"):
        prepare(learner, [tmp_path / "nowhere"], tmp_path / "run")
    other = insertion().model_copy(update={"action": insertion().action.model_copy(update={"scale_m": 0.01})})
    bag = write_episode(tmp_path / "scaled", random_episodes(1, 4), other)
    with pytest.raises(UserError, match=rf"{bag}: actions of 0.01 m, 0.1 rad; task insertion has 0.015 m, 0.1 rad"):
        prepare(learner, [], tmp_path / "run", [tmp_path / "scaled"])
