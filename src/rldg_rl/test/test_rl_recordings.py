"""Starting from bags: demonstrations, and resuming a run whose process was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rl_samples import insertion, random_episodes, small

from rldg_core.errors import UserError
from rldg_data.recording import write_episode
from rldg_rl.checkpoint import write_checkpoint
from rldg_rl.learner import Learner
from rldg_rl.recordings import prepare


def record(folder: Path, count: int, length: int, seed: int = 0, task: str = "insertion") -> None:
    """Write random episodes as bags; every second one succeeds."""
    steps = random_episodes(count, length, seed)
    for k in range(count):
        part = [replace(s, task=task) for s in steps[k * (length + 1) : (k + 1) * (length + 1)]]
        write_episode(folder, part, insertion().model_copy(update={"name": task}))


def test_only_successful_demonstrations_are_learned_from(tmp_path: Path) -> None:
    record(tmp_path / "demos", 3, 6)
    learner = Learner(small(), insertion(), 0)
    start = prepare(learner, [tmp_path / "demos"], tmp_path / "run")
    assert (start.demonstrations, start.failed_demonstrations, start.resumed_from) == (2, 1, None)
    assert len(learner.demonstrations) == learner.counters.demo_transitions == 12


def test_resume_reads_the_runs_own_bags(tmp_path: Path) -> None:
    run = tmp_path / "run"
    record(run / "bags", 3, 9)
    whole = Learner(small(), insertion(), 0)
    part = Learner(small(), insertion(), 0)
    steps = random_episodes(3, 9)
    for k, step in enumerate(steps):
        whole.consume(step)
        if k < 14:
            part.consume(step)
    write_checkpoint(run, part)
    resumed = Learner(small(), insertion(), 0)
    start = prepare(resumed, [], run)
    assert (start.recorded_episodes, start.missing_episodes) == (3, 0)
    assert resumed.counters == whole.counters
    assert resumed.first_weights().sha256 == whole.first_weights().sha256


def test_another_tasks_demonstrations_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "demos", 1, 4, task="pick")
    learner = Learner(small(), insertion(), 0)
    with pytest.raises(UserError, match=r"episode_000000: episode of task 'pick', the learner trains 'insertion'"):
        prepare(learner, [tmp_path / "demos"], tmp_path / "run")
    with pytest.raises(UserError, match="nowhere"):
        prepare(learner, [tmp_path / "nowhere"], tmp_path / "run")
