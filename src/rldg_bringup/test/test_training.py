"""Checks of `rldg train` before it starts nodes, and its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from rldg_bringup.cli import app
from rldg_bringup.pipeline import TrainingLimits, resolve_task
from rldg_bringup.plots import TrainingEpisode, plot_training
from rldg_bringup.training import TrainPlan, check_demonstrations, training_episodes, write_learner_config
from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.task import Task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_data.bags.recording import write_episode
from rldg_rl import config as configuration

PLAN = TrainPlan("insertion:vga", 0, TrainingLimits(0.9, 0, 100))
JPEG = encode_jpeg(np.zeros((128, 128, 3), dtype=np.uint8), 90)


def episode(task: Task, sources: list[Source], success: bool, number: int = 0) -> list[Step]:
    """Return transitions by these sources and the last Step."""
    steps = []
    for index, source in enumerate([*sources, Source.NONE]):
        last, ends = source is Source.NONE, index >= len(sources) - 1
        stamp = (index + 1) * 100_000_000
        values = np.zeros(0 if last else task.action.dim, dtype=np.float32)
        pose = np.array([0.5, 0, 0.2, 1, 0, 0, 0])
        steps.append(
            Step(
                episode_id=f"t/{number:06d}",
                index=index,
                step_count=index,
                task=task.name,
                object=task.default_object,
                instruction="",
                seed=0,
                observation=Observation(
                    stamp, {"wrist": JPEG}, pose, np.zeros(6), np.zeros(6), np.zeros(7), float("nan")
                ),
                action=ExecutedAction(stamp, values, values, source, False, False, "p", 0),
                reward=float(success and ends and not last),
                terminated=ends and success,
                truncated=ends and not success,
                is_first=index == 0,
                is_last=last,
                success=ends and success,
            )
        )
    return steps


def test_learner_configuration_is_resolved_once_and_stored(tmp_path: Path) -> None:
    task = resolve_task(PLAN.task)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"preset": "connector", "agent": {"discount": 0.9}}))
    plan = replace(PLAN, learner_config=file, updates_per_step=3.0)
    written = configuration.load(write_learner_config(plan, task, tmp_path / "run"), task)
    assert written.agent.discount == 0.9 and written.learner.updates_per_step == 3.0
    assert written.network == configuration.resolve("connector").network
    write_learner_config(plan, task, tmp_path / "run")
    with pytest.raises(UserError, match="another learner configuration"):
        write_learner_config(replace(plan, updates_per_step=4.0), task, tmp_path / "run")
    rlpd = configuration.load(write_learner_config(replace(PLAN, preset="rlpd"), task, tmp_path / "rlpd"), task)
    assert rlpd.network.critics == 10


def test_demonstrations_of_another_task_are_refused(tmp_path: Path) -> None:
    task = resolve_task(PLAN.task)
    write_episode(tmp_path, episode(task, [Source.HUMAN] * 3, True), task)
    check_demonstrations(tmp_path, task)
    with pytest.raises(UserError, match="task 'insertion', expected 'pick_and_place'"):
        check_demonstrations(tmp_path, resolve_task("pick_and_place"))
    with pytest.raises(UserError, match="nothing: no such directory of bags"):
        check_demonstrations(tmp_path / "nothing", task)


def test_training_episodes_count_interventions_and_are_plotted(tmp_path: Path) -> None:
    task = resolve_task(PLAN.task)
    sources = [Source.POLICY, Source.SCRIPTED, Source.HUMAN, Source.POLICY]
    write_episode(tmp_path, episode(task, sources, True), task)
    write_episode(tmp_path, episode(task, [Source.POLICY] * 2, False, 1), task)
    episodes = training_episodes(tmp_path)
    assert episodes == [TrainingEpisode(4, True, 2), TrainingEpisode(2, False, 0)]
    plot_training(tmp_path / "training.png", episodes, 0.1)
    with Image.open(tmp_path / "training.png") as image:
        assert image.width > 300


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["insertion:banana"], "default_object 'banana'"),
        (["dance"], "unknown task 'dance'"),
        (["insertion", "--preset", "nope"], "option --preset: unknown preset 'nope'"),
        (["insertion", "--demos", "/nowhere"], "/nowhere: no such file or folder"),
        (["insertion", "--learner-config", "/nowhere.yaml"], "/nowhere.yaml: no such file or folder"),
    ],
)
def test_bad_input_is_refused_before_the_start(arguments: list[str], expected: str, tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["train", *arguments, "--out", str(tmp_path / "run")])
    assert isinstance(outcome.exception, UserError) and expected in str(outcome.exception)
    assert "\n" not in str(outcome.exception)
    assert not (tmp_path / "run").exists(), "no run folder is left"
