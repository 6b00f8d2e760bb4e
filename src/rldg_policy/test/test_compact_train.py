"""Fine-tuning of the compact generalist: it learns, repeats bit for bit, resumes, and fails with one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from generalist_samples import Stopped, insertion_dataset, make_episode, stop_at, write_dataset

from rldg_core.errors import UserError
from rldg_policy.compact import train
from rldg_policy.compact.config import TrainConfig
from rldg_policy.compact.heads import make_head
from rldg_policy.compact.policy import CompactPolicy
from rldg_policy.compact.train import MIRRORED, BatchSource
from rldg_policy.training.dataset import open_training_set

SMALL = {
    "image_size": 64,
    "whole_px": 16,
    "tip_px": 32,
    "tip_x": 16,
    "tip_y": 16,
    "horizon": 2,
    "channels": (4, 8, 8),
    "squeeze": 2,
    "width": 32,
    "diffusion_width": 32,
}


def config_of(head: str, **options) -> TrainConfig:
    defaults = {"steps": 12, "batch": 8, "warmup_steps": 5, "learning_rate": 3e-3, "save_every": 4}
    model = {**SMALL, "head": head, **options.pop("model", {})}
    return TrainConfig.model_validate({**defaults, **options, "model": model})


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return insertion_dataset(tmp_path_factory.mktemp("data"), episodes=6, transitions=8)


@pytest.mark.parametrize("head", ["bins", "diffusion"])
def test_training_lowers_the_loss_and_its_result_is_served(data, task, observe, tmp_path, head):
    calls = []
    config = config_of(head, steps=150, recolour=0, wave=0, average=0.9, save_every=1000)
    result = train.finetune(data, tmp_path / "a", config, seed=3, progress=lambda *done: calls.append(done))
    assert result.losses[-1] < 0.9 * result.losses[0] and calls[-1] == (150, 150)
    assert (result.episodes, result.transitions, result.samples) == (6, 48, 1200)
    story = json.loads((tmp_path / "a" / "training.json").read_text())
    assert story["losses"] == list(result.losses) and story["seed"] == 3 and story["config"]["model"]["head"] == head
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "config.json",
        "dataset_statistics.json",
        "model.safetensors",
        "rldg.json",
        "training.json",
    ]
    policy = CompactPolicy(tmp_path / "a", task)
    assert policy.spec.version == 150 and policy.spec.statistics_key == "made_up" and policy.spec.horizon == 2
    policy.reset("insert the VGA connector into the port", 0)
    assert policy.act(observe()).shape == (2, 6)


@pytest.mark.parametrize(("head", "window"), [("bins", 2), ("diffusion", 1)])
def test_same_seed_gives_the_same_weights_resumed_or_not(data, tmp_path, head, window):
    config = config_of(head, mirror=0.5, shuffle_buffer=20, model={"window": window})
    train.finetune(data, tmp_path / "whole", config, seed=1)
    # Interrupted at step 10 and saved after step 8: steps 9 and 10 are repeated.
    with pytest.raises(Stopped):
        train.finetune(data, tmp_path / "parts", config, seed=1, progress=stop_at(10))
    assert (tmp_path / "parts/.training/checkpoint/rldg.json").is_file()
    result = train.finetune(data, tmp_path / "parts", config, seed=1, resume=True)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert not (tmp_path / "parts/.training").exists()
    assert result.losses == tuple(json.loads((tmp_path / "whole/training.json").read_text())["losses"])
    train.finetune(data, tmp_path / "other", config, seed=2)
    assert weights(tmp_path / "other") != weights(tmp_path / "whole")


def test_training_killed_in_its_first_save_starts_again(data, tmp_path):
    left = tmp_path / "a" / ".training" / ".state.aside"
    left.mkdir(parents=True)
    resumed = train.finetune(data, tmp_path / "a", config_of("bins"), seed=1, resume=True)
    assert resumed.losses == train.finetune(data, tmp_path / "b", config_of("bins"), seed=1).losses
    assert not (tmp_path / "a" / ".training").exists()


def test_resuming_with_another_configuration_is_refused(data, tmp_path):
    with pytest.raises(Stopped):
        train.finetune(data, tmp_path / "a", config_of("bins"), progress=stop_at(10))
    with pytest.raises(UserError, match=r"cannot resume: batch was 8, now it is 4"):
        train.finetune(data, tmp_path / "a", config_of("bins", batch=4), resume=True)


def test_non_finite_loss_keeps_the_last_checkpoint(data, task, tmp_path, monkeypatch):
    true_loss, count = train.loss_of, iter(range(100))
    monkeypatch.setattr(train, "loss_of", lambda *a: true_loss(*a) * (float("nan") if next(count) == 6 else 1.0))
    with pytest.raises(UserError, match=r"^step 7: loss is nan: .*last good checkpoint: .*\.training/checkpoint"):
        train.finetune(data, tmp_path / "a", config_of("bins"))
    assert not (tmp_path / "a/model.safetensors").exists()
    assert CompactPolicy(tmp_path / "a/.training/checkpoint", task).spec.version == 4
    # Only the loss was wrong: training continues from step 4.
    monkeypatch.setattr(train, "loss_of", true_loss)
    train.finetune(data, tmp_path / "a", config_of("bins"), resume=True)
    train.finetune(data, tmp_path / "b", config_of("bins"))
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_non_finite_gradient_changes_no_weights(data, tmp_path, monkeypatch):
    true_loss, count = train.loss_of, iter(range(100))

    def steep(model, *rest):
        """Return the true loss; at the fourth step, which a save follows, its slope is infinite."""
        loss = true_loss(model, *rest)
        return loss + (next(model.parameters()).sum() * 0).sqrt() if next(count) == 3 else loss

    monkeypatch.setattr(train, "loss_of", steep)
    with pytest.raises(UserError, match=r"^step 4: loss is nan: .*no checkpoint was written before"):
        train.finetune(data, tmp_path / "a", config_of("bins"))
    assert not (tmp_path / "a/.training/checkpoint").exists()


def test_out_of_memory_and_unexpected_base_are_refused(data, tmp_path, monkeypatch):
    def full(*_args):
        raise MemoryError

    monkeypatch.setattr(train, "loss_of", full)
    with pytest.raises(UserError, match=r"^out of memory: lower batch \(8\), cached_images"):
        train.finetune(data, tmp_path / "a", config_of("bins"))
    with pytest.raises(UserError, match="is trained from random weights"):
        train.finetune(data, tmp_path / "a", config_of("bins"), base=tmp_path)
    assert not (tmp_path / "a").exists()


def test_several_tasks_can_be_learned(task, tmp_path):
    episodes = [make_episode(0, task="insertion"), make_episode(1, task="pick", instruction="pick it up")]
    train.finetune(write_dataset(tmp_path, episodes), tmp_path / "a", config_of("bins", steps=2))
    manifest = json.loads((tmp_path / "a/rldg.json").read_text())
    assert manifest["tasks"] == ["insertion", "pick"]
    assert CompactPolicy(tmp_path / "a", task).spec.version == 2


def test_batches_hold_the_last_images_and_their_actions(data):
    """Window 2: the previous image is masked at the start of an episode; weights exclude actions beyond its end."""
    config = config_of("bins", model={"window": 2})
    opened = open_training_set(data)
    source = BatchSource(opened, make_head(config.model), config, 0)
    samples = [s for _, s in zip(range(8), _stream(opened, config), strict=False)]
    batch = source.batch(samples, np.zeros(8, dtype=bool))
    flipped = source.batch(samples, np.ones(8, dtype=bool))
    for row, sample in enumerate(samples):
        assert batch.mask[row].tolist() == [float(sample.index > 0), 1.0]
        assert torch.equal(batch.pixels[row, 0], batch.pixels[row, 1]) == (sample.images[0] == sample.images[1])
        assert (batch.weight[row, :, 0] > 0).tolist() == sample.action_mask[-1].tolist()
        expected = source._head.normalise(opened.actions, sample.actions[-1] * MIRRORED)
        np.testing.assert_array_equal(flipped.actions[row], expected)
    assert float(batch.weight.sum()) == pytest.approx(1 / 7)
    again = BatchSource(opened, make_head(config.model), config.model_copy(update={"cached_images": 0}), 0)
    assert torch.equal(again.batch(samples, np.zeros(8, dtype=bool)).pixels, batch.pixels)


def _stream(opened, config):
    from rldg_policy.training.samples import stream_samples

    return stream_samples(opened.dataset, window=2, horizon=config.model.horizon)
