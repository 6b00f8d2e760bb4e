"""Complete fine-tuning of Octo: its result, resuming after SIGKILL in a save, and errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import generalist_samples
import jax
import numpy as np
import octo_killed_training
import octo_train_samples
import pytest
from octo_train_samples import CONFIG, SEED, SIZE
from safetensors import safe_open

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_policy.checkpoint.statistics import choose_statistics
from rldg_policy.octo import train, training_state
from rldg_policy.octo.checkpoint import read_checkpoint, write_random
from rldg_policy.octo.config import OctoTrainConfig
from rldg_policy.octo.steps import Steps, flatten, partition
from rldg_policy.training.dataset import open_training_set

pytestmark = pytest.mark.timeout(300)  # XLA compiles for half a minute, longer on a busy machine


@pytest.fixture(scope="module", autouse=True)
def quick_compiler(tmp_path_factory):
    """Reduce compilation, which takes most of the time: low optimisation, and a cache."""
    from jax.experimental.compilation_cache import compilation_cache

    wanted = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("xla")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in wanted}
    for name, value in wanted.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return octo_train_samples.dataset_with_validation(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "octo"
    write_random(folder, SIZE, 0)
    return folder


@pytest.fixture(scope="module")
def trained(dataset, base, tmp_path_factory) -> tuple[Path, train.OctoTrainResult, list[float]]:
    """Return (checkpoint, result, losses of the first 16 steps from the training state)."""
    out = tmp_path_factory.mktemp("trained") / "octo"
    losses: list[float] = []

    def look(step: int, steps: int) -> None:
        if step == 18:
            with safe_open(out / ".training" / "state.safetensors", framework="np") as file:
                losses.extend(json.loads(file.metadata()["rldg"])["losses"])

    result = train.finetune(dataset, out, CONFIG, base=base, seed=SEED, progress=look)
    return out, result, losses


# The whole training


def test_result_can_be_served(trained, base, dataset):
    out, _, _ = trained
    checkpoint, before = read_checkpoint(out), read_checkpoint(base)
    manifest = checkpoint.manifest
    assert manifest is not None and manifest.version == checkpoint.step == 20
    assert (manifest.backend, manifest.tasks, manifest.statistics_key) == ("octo", ("insertion",), "made_up")
    assert (manifest.image_size, manifest.window, manifest.horizon, manifest.rate_hz) == (32, 2, 4, 10.0)
    key, statistics = choose_statistics(out, manifest)
    assert key == "made_up" and np.array_equal(statistics.mean, open_training_set(dataset).actions.mean)
    assert manifest.statistics_sha256 == sha256_hex((out / "dataset_statistics.json").read_bytes())
    assert checkpoint.image_sizes == {"image_primary": 32} and checkpoint.config["window_size"] == 2
    assert list(checkpoint.config["model"]["observation_tokenizers"]) == ["primary"]
    after, old = flatten(checkpoint.params), flatten(before.params)
    assert set(old.keys() - after.keys()) == {path for path in old if "wrist" in path}
    same = {path for path in after if np.array_equal(after[path], old[path])}
    assert {path for path in after if "hf_model" in path} <= same
    assert all("hf_model" in path or "bias" in path or "pos_embedding" in path for path in same), same
    assert sorted(path.name for path in out.iterdir()) == [
        "20",
        "config.json",
        "dataset_statistics.json",
        "example_batch.msgpack",
        "rldg.json",
        "tiny-t5",
        "training.json",
    ]


def test_loss_falls_and_is_reported(trained):
    out, result, losses = trained
    assert result.steps == 20 and result.samples == 80 and result.episodes == 5 and result.samples_per_s > 0
    assert result.trained < result.parameters and len(result.losses) == 1 and len(result.validation_losses) == 3
    assert len(losses) == 16 and max(np.mean(losses[8:]), *result.validation_losses) < 0.8 * losses[0]
    report = json.loads((out / "training.json").read_text())
    assert report["losses"] == list(result.losses) and report["seed"] == SEED and report["config"]["batch"] == 4


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of every file but the training report, which holds paths and times."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "training.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(("point", "weights", "begins"), [("state", {"8"}, 9), ("moved", {"8", "16"}, 17)])
def test_killed_save_keeps_the_previous_one(trained, dataset, base, tmp_path, point, weights, begins):
    """SIGKILL within the second save, at step 16: the first save can be served, and the final result is the same."""
    whole, result, _ = trained
    out = tmp_path / "octo"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    program = [sys.executable, octo_killed_training.__file__, dataset, base, out, point]
    killed = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=110)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {path.name for path in out.iterdir() if path.name.isdecimal()} == weights
    assert bool(list((out / ".training").glob(".*.partial"))) == (point == "state")
    assert read_checkpoint(out).step == 8
    begun = []
    again = train.finetune(
        dataset, out, CONFIG, base=base, seed=SEED, resume=True, progress=lambda *at: begun.append(at)
    )
    assert begun[0] == (begins, 20) and contents(out) == contents(whole)
    assert again.losses == result.losses and again.validation_losses == result.validation_losses


def test_interrupted_training_resumes_with_its_settings(trained, dataset, base, tmp_path):
    whole, result, _ = trained
    out = tmp_path / "octo"

    def interrupt(step, steps):
        if step == 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.finetune(dataset, out, CONFIG, base=base, seed=SEED, progress=interrupt)
    assert read_checkpoint(out).step == 16, "can be served already"
    (out / ".training" / ".checkpoint.0.partial" / "16").mkdir(parents=True)
    refused = {
        "seed was 3, now it is 4": {"seed": 4},
        "learning_rate was 0.003, now it is 0.1": {"config": CONFIG.model_copy(update={"learning_rate": 0.1})},
    }
    for reason, change in refused.items():
        arguments = {"config": CONFIG, "seed": SEED, **change}
        with pytest.raises(UserError, match=reason):
            train.finetune(dataset, out, base=base, resume=True, **arguments)
    with pytest.raises(UserError, match="holds an unfinished training"):
        train.finetune(dataset, out, CONFIG, base=base, seed=SEED)
    config = CONFIG.model_copy(update={"save_every": 20, "workers": 2})
    again = train.finetune(dataset, out, config, base=base, seed=SEED, resume=True)
    assert contents(out) == contents(whole) and again.losses == result.losses
    assert not (out / ".training").exists()
    with pytest.raises(UserError, match="no unfinished training to resume"):
        train.finetune(dataset, out, CONFIG, base=base, seed=SEED, resume=True)


def test_published_checkpoint_stays_readable_while_it_is_published_again(dataset, base, tmp_path, monkeypatch):
    """A resumed training publishes its step again first, while others may load the folder at any moment."""
    start = train.initial_checkpoint(base, CONFIG)
    manifest = train._manifest(open_training_set(dataset), start, CONFIG, 8)
    statistics = open_training_set(dataset).statistics_json

    def publish():
        training_state.CheckpointFolder(tmp_path, (tmp_path / ".training").is_dir()).publish(
            start, statistics, manifest
        )

    publish()
    looks = []

    def looking(move):
        def look_and_move(source, target):
            looks.append(read_checkpoint(tmp_path).step)
            move(source, target)

        return look_and_move

    monkeypatch.setattr(os, "replace", looking(os.replace))
    monkeypatch.setattr(os, "rename", looking(os.rename))
    publish()
    assert len(looks) >= 6 and set(looks) == {8}


# Errors


def test_out_of_memory_names_the_options_to_lower(dataset, base, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes")

    monkeypatch.setattr(Steps, "train", full)
    with pytest.raises(UserError, match=r"out of memory: lower batch \(4\) or window \(2\)"):
        train.finetune(dataset, tmp_path / "out", CONFIG, base=base)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"config": CONFIG.model_copy(update={"window": 11})}, "window: 11, but .* position embeddings for at most 10"),
        ({"base": None}, "base: Octo is fine-tuned from a checkpoint"),
        ({"base": Path("/nowhere")}, "/nowhere/config.json: cannot read"),
        ({"dataset": Path("/nowhere")}, "/nowhere: not a dataset"),
    ],
)
def test_unusable_input_is_refused(change, reason, dataset, base, tmp_path):
    arguments = {"dataset": dataset, "config": CONFIG, "base": base, **change}
    with pytest.raises(UserError, match=reason) as error:
        train.finetune(out=tmp_path / "out", **arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_folder_that_is_not_a_checkpoint_is_not_replaced(dataset, base, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not a checkpoint"):
        train.finetune(dataset, tmp_path, CONFIG, base=base)


def test_dataset_without_instruction_is_refused(base, tmp_path):
    dirty = generalist_samples.insertion_dataset(tmp_path, episodes=2, instruction=" ")
    with pytest.raises(UserError, match=r"not fit for training: .*must not be empty"):
        train.finetune(dirty, tmp_path / "out", CONFIG, base=base)


def test_actions_of_another_dimension_are_refused(dataset, tmp_path):
    write_random(tmp_path / "base", SIZE.model_copy(update={"action_dim": 8}), 0)
    with pytest.raises(UserError, match="predicts actions of 8 components, the datasets have 7"):
        train.initial_checkpoint(tmp_path / "base", CONFIG)


def test_golden_checkpoint_can_be_fine_tuned(octo_golden):
    start = train.initial_checkpoint(octo_golden, OctoTrainConfig())
    assert start.window == 1 and start.image_sizes == {"image_primary": 128}
    learning, frozen = partition(start.params, OctoTrainConfig().patterns)
    assert all(".hf_model." in path for path in frozen) and learning
