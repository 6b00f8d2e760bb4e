"""The reward classifier in a stack ends the episodes; ground truth is still published."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from rldg_bringup.arguments import StackArguments
from rldg_bringup.pipeline import arguments_for, share_dir, stack_client
from rldg_bringup.stack import insertion_stack
from rldg_core.errors import UserError
from rldg_core.task import find_task
from rldg_data.bags.reading import find_bags, read_episode
from rldg_msgs.msg import Reward
from rldg_rl.classifier.checkpoint import SavedClassifier, view_hash, write_classifier
from rldg_rl.classifier.frames import read_frames
from rldg_rl.classifier.model import ClassifierConfig, init
from rldg_rl.encoders.loading import load_encoder

DOMAIN = 136
TASKS = Path(__file__).parents[1] / "config" / "tasks"


@pytest.fixture
def certain(tmp_path: Path) -> Path:
    """Write a classifier that reports success for every image."""
    task, config = find_task("insertion", [TASKS]), ClassifierConfig(encoder="random_conv", hidden=4)
    encoder = load_encoder("random_conv")
    tensors = {**init(encoder.feature_shape[0], 4, 0), "out/b": np.array([50.0], np.float32)}
    saved = SavedClassifier(
        config, tensors, encoder.feature_shape[0], 1.0, 0.5, task.name, view_hash(task, "wrist"),
        encoder.weights_sha256, ("vga",), None, {},
    )  # fmt: skip
    write_classifier(tmp_path / "classifier", saved, b"")
    return tmp_path / "classifier"


def test_stack_with_classifier_declares_the_reward_node(certain: Path, tmp_path: Path) -> None:
    share = share_dir()
    stack = insertion_stack(StackArguments(classifier=str(certain)), share)
    assert stack.node("reward").parameters["classifier"] == str(certain)
    assert stack.node("cell").parameters["reward_topic"] == "cell/ground_truth_reward"
    assert stack.node("episode").parameters["exact_rewards"] is True
    assert "reward" in stack.node("episode").parameters["needs"]
    plain = insertion_stack(StackArguments(), share)
    assert "reward" not in [n.name for n in plain.nodes] and "reward_topic" not in plain.node("cell").parameters

    def check_refused(reason: str, **arguments: str) -> None:
        with pytest.raises(UserError, match=reason):
            insertion_stack(StackArguments(**arguments), share)

    check_refused("argument classifier: no classifier in /nowhere", classifier="/nowhere")
    task = yaml.safe_load((TASKS / "insertion.yaml").read_text())
    for source, given, reason in (
        ("operator", str(certain), "the operator labels the episodes of task insertion"),
        ("classifier", "", "task insertion takes its reward from one; give its folder"),
    ):
        path = tmp_path / f"{source}.yaml"
        path.write_text(yaml.safe_dump({**task, "reward": {"source": source}}))
        check_refused(reason, task=str(path), classifier=given)


def test_classifier_reward_ends_episodes_and_ground_truth_is_published(
    certain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two frames above the threshold ends an episode, so that each has one transition."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    arguments = replace(
        arguments_for("insertion", 0), classifier=str(certain), record=True, bag_dir=str(tmp_path / "bags")
    )
    truths: list[Reward] = []
    with stack_client(arguments, tmp_path / "log") as (_, client):
        client.node.create_subscription(Reward, "cell/ground_truth_reward", truths.append, 10)
        client.wait_ready()
        outcome = client.run_episodes(3, 0)
        client.wait(lambda: len(truths) >= 6, 20.0, "ground truth")
    assert outcome.success == (True,) * 3 and outcome.steps == (1,) * 3
    assert not any(t.success for t in truths)
    bags = [read_episode(bag) for bag in find_bags(tmp_path / "bags")]
    assert [(s[0].success, s[0].terminated, s[0].reward, len(s)) for s in bags] == [(True, True, 1.0, 2)] * 3


def test_bad_input_to_train_and_evaluate_is_refused(tmp_path: Path) -> None:
    from rldg_bringup.cli import app

    def error_of(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["classifier", *arguments])
        assert isinstance(result.exception, UserError)
        return str(result.exception)

    folder = str(tmp_path / "none")
    assert error_of("train", "insertion", folder, "--out", "x") == f"{folder}: no such folder of bags or frames"
    assert error_of("train", "insertion", folder, "--out", "x", "--encoder", "vgg").startswith("unknown encoder 'vgg'")
    assert (
        error_of("evaluate", "insertion", folder, folder)
        == f"{folder}/config.json: cannot read: No such file or directory"
    )
    assert read_frames([], find_task("insertion", [TASKS]), "wrist") == []
