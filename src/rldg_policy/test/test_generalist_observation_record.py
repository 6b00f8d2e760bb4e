"""The observation record of a generalist is stored in its checkpoint and compared on use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generalist_samples import Stopped, insertion_dataset, made_of, make_episode, stop_at, write_dataset

from rldg_core.errors import UserError
from rldg_core.policy import PolicySpec
from rldg_core.policy_checks import check_spec
from rldg_core.registry import load_policy
from rldg_core.task import CropConfig, RatesConfig, Task
from rldg_data.rlds import read_dataset
from rldg_policy.checkpoint.manifest import Manifest, allow_rate, read_manifest, write_manifest
from rldg_policy.compact.checkpoint import read_checkpoint
from rldg_policy.compact.config import ModelConfig, TrainConfig
from rldg_policy.compact.train import finetune
from rldg_policy.training.dataset import content_sha256, open_training_set

SMALL = ModelConfig(channels=(4, 8, 8), squeeze=2, width=32)
CONFIG = TrainConfig(steps=4, batch=2, save_every=2, model=SMALL)


def dataset(root: Path, rate_hz: float = 10.0, instruction: str = "insert the plug", **recorded: Any) -> Path:
    """Write three episodes with this observation record."""
    episodes = []
    for seed in range(3):
        one = make_episode(seed, instruction=instruction)
        metadata = {**one.metadata, "provenance": made_of(seed, **recorded)}
        stamps = (np.arange(len(one)) / rate_hz).astype(np.float32)
        episodes.append(replace(one, metadata=metadata, timestamp_s=stamps))
    return write_dataset(root, episodes)


def camera_of(task: Task, **changes: Any) -> Task:
    """Return the task with another wrist camera."""
    wrist = task.cameras["wrist"].model_copy(update=changes)
    return task.model_copy(update={"cameras": {**task.cameras, "wrist": wrist}})


def at_rate(task: Task, control_hz: float) -> Task:
    return task.model_copy(update={"rates": RatesConfig(control_hz=control_hz)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made_of")
    finetune(dataset(root), root / "out", CONFIG)
    return root / "out"


def test_checkpoint_stores_its_observation_record(trained: Path) -> None:
    manifest = read_manifest(trained)
    assert manifest and manifest.camera == "wrist" and manifest.rate_hz == 10.0 and len(manifest.dataset_sha256) == 64
    made = manifest.made_of["insertion"]
    assert made.view and (made.view.width, made.view.crop, made.gripper) == (256, None, False)
    assert json.loads((trained / "training.json").read_text())["dataset_sha256"] == manifest.dataset_sha256


def test_camera_is_that_of_the_data(tmp_path: Path, task: Task) -> None:
    finetune(dataset(tmp_path, camera="side"), tmp_path / "out", CONFIG)
    assert read_checkpoint(tmp_path / "out").manifest.camera == "side"
    with pytest.raises(UserError, match="it needs camera 'side', the task has wrist"):
        load_policy("g", "compact", tmp_path / "out", False, task)
    both = task.model_copy(update={"cameras": {"wrist": task.cameras["wrist"], "side": task.cameras["wrist"]}})
    policy = load_policy("g", "compact", tmp_path / "out", False, both)
    assert policy.spec.cameras == ("side",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 640}, r"show 256x256 px as 256 px; task insertion has 640x256 px as 256 px"),
        ({"crop": CropConfig(x=1, y=2, width=200, height=200)}, r"has 200x200 at \(1, 2\) of 256x256 px as 256 px"),
        ({"image_size": 300}, r"has 256x256 px as 300 px"),
    ],
)
def test_another_view_is_refused(trained: Path, task: Task, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason) as error:
        load_policy("g", "compact", trained, False, camera_of(task, **changes))
    assert "\n" not in str(error.value)


def test_arm_with_other_gripper_use_is_refused(trained: Path, tmp_path: Path, task: Task) -> None:
    gripping = task.model_copy(update={"action": task.action.model_copy(update={"gripper": True})})
    with pytest.raises(UserError, match="trained on actions without a gripper, task insertion is with a gripper"):
        load_policy("g", "compact", trained, False, gripping)
    finetune(dataset(tmp_path, gripper=True), tmp_path / "out", CONFIG)
    load_policy("g", "compact", tmp_path / "out", False, gripping)
    with pytest.raises(UserError, match="trained on actions with a gripper, task insertion is without"):
        load_policy("g", "compact", tmp_path / "out", False, task)


def test_another_control_rate_is_refused_unless_allowed(tmp_path: Path, task: Task) -> None:
    finetune(dataset(tmp_path, rate_hz=30.0), tmp_path / "out", CONFIG)
    assert read_checkpoint(tmp_path / "out").manifest.rate_hz == pytest.approx(30.0, rel=1e-3)
    with pytest.raises(UserError, match=r"30 steps per second, the stack runs at 10 Hz.*3 times.*rldg checkpoint rate"):
        load_policy("g", "compact", tmp_path / "out", False, task)
    load_policy("g", "compact", tmp_path / "out", False, at_rate(task, 30))
    load_policy("g", "compact", tmp_path / "out", False, task, paced=False)  # clients choose when to ask
    allow_rate(tmp_path / "out", 10.0)
    assert allow_rate(tmp_path / "out", 10.0).allowed_rates_hz == (10.0,)
    load_policy("g", "compact", tmp_path / "out", False, task)
    for rate in (0.0, float("nan"), -1.0):
        with pytest.raises(UserError, match="allowed_rates_hz"):
            allow_rate(tmp_path / "out", rate)
    with pytest.raises(UserError, match=r"rldg\.json: missing: adopt"):
        allow_rate(tmp_path, 10.0)


def test_trained_policy_without_a_rate_is_refused(task: Task) -> None:
    spec = PolicySpec((), 0, 1, 6, 1, 10.0, "k", 0, ())
    with pytest.raises(UserError, match=r"does not say at which rate.*rldg checkpoint adopt"):
        check_spec("g", spec, task)
    check_spec("g", spec, task, paced=False)
    slow = replace(spec, rate_hz=4.0, control_rates_hz=(10.0,))
    with pytest.raises(UserError, match=r"control_hz:=4 \(after `rldg checkpoint rate FOLDER 4`\)"):
        check_spec("g", slow, task)


def test_datasets_of_mixed_cameras_views_or_rates_are_refused(tmp_path: Path) -> None:
    def mixed(name: str, **changes: Any) -> Path:
        first, *_, last = (make_episode(seed) for seed in range(3))
        return write_dataset(tmp_path / name, [first, replace(last, **changes)])

    def provenance(**recorded: Any) -> dict[str, Any]:
        return {"metadata": {**make_episode(2).metadata, "provenance": made_of(2, **recorded)}}

    for name, changes, reason in (
        ("camera", provenance(camera="side"), r"camera.*(side|wrist)"),
        ("view", provenance(width=640), "(view|show).*640"),
        ("gripper", provenance(gripper=True), "has 7 values in its actions, others 6"),
        ("rate", {"timestamp_s": (np.arange(9) / 30).astype(np.float32)}, r"error: rate: .*10 Hz"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            open_training_set(mixed(name, **changes))
        assert "\n" not in str(error.value)


def test_malformed_view_is_refused(tmp_path: Path) -> None:
    one = make_episode(0)
    spoiled = replace(one, metadata={**one.metadata, "provenance": made_of(0, width="x")})
    with pytest.raises(UserError, match=r"provenance\.images: not written by this suite") as error:
        open_training_set(write_dataset(tmp_path, [spoiled], shards=1))
    assert "\n" not in str(error.value)


def test_dataset_without_a_camera_needs_the_option(tmp_path: Path) -> None:
    one = make_episode(0)
    path = write_dataset(tmp_path, [replace(one, metadata={**one.metadata, "provenance": "[]"})], shards=1)
    with pytest.raises(UserError, match="no camera in its recording metadata: name it with --camera"):
        open_training_set(path)
    found = open_training_set(path, "side")
    assert found.camera == "side" and not found.made_of
    with pytest.raises(UserError, match="its images are from camera 'wrist', not from 'side'"):
        open_training_set(insertion_dataset(tmp_path / "b"), "side")


def test_resuming_with_other_images_or_instructions_is_refused(tmp_path: Path) -> None:
    first = dataset(tmp_path / "a")
    with pytest.raises(Stopped):
        finetune(first, tmp_path / "out", replaced(CONFIG, steps=40), progress=stop_at(10))
    for name, changes in (("text", {"instruction": "pull the plug"}), ("view", {"camera": "wrist", "width": 640})):
        again = dataset(tmp_path / name, **changes)
        with pytest.raises(UserError, match=r"cannot resume: the dataset is not the one .* restore the old dataset"):
            finetune(again, tmp_path / "out", replaced(CONFIG, steps=40), resume=True)
    moved = dataset(tmp_path / "elsewhere")
    assert content_sha256(read_dataset(moved)) == content_sha256(read_dataset(first))
    assert finetune(moved, tmp_path / "out", replaced(CONFIG, steps=40), resume=True).steps == 40


def replaced(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.model_copy(update=changes)


def test_instruction_that_would_be_shortened_is_refused_before_training(tmp_path: Path) -> None:
    for number, (instruction, reason) in enumerate(
        (
            ("插入插头", "only the letters a-z and digits"),
            ("insert " * 30, "words and trigrams"),
            ("x" * 501, "501 characters"),
        )
    ):
        path = dataset(tmp_path / str(number), instruction=instruction)
        with pytest.raises(UserError, match=reason) as error:
            finetune(path, tmp_path / "out", CONFIG)
        assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_manifest_without_observation_record_is_read_with_a_warning(trained: Path, tmp_path: Path, task: Task) -> None:
    now = read_manifest(trained)
    assert now
    new = {"made_of", "dataset_sha256", "allowed_rates_hz", "inference_hz"}
    old = Manifest.model_validate(now.model_dump(mode="json", exclude=new))
    tmp_path.joinpath("x").mkdir()
    write_manifest(tmp_path / "x", old)
    assert read_manifest(tmp_path / "x") == old and old.made_of == {} and old.control_rates_hz == (10.0,)
