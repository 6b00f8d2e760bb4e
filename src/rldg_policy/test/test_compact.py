"""The compact generalist: tokeniser, training on a toy dataset, checkpoints and the back-end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_data.rlds import Dataset, Episode
from rldg_policy.compact import train
from rldg_policy.compact.checkpoint import read_checkpoint
from rldg_policy.compact.config import ModelConfig, TrainConfig
from rldg_policy.compact.inputs import instruction_tokens, views
from rldg_policy.compact.model import CompactModel, parameter_count
from rldg_policy.compact.policy import CompactPolicy
from rldg_policy.compact.tokenize import ActionStatistics, bin_values, from_bins, to_bins

SMALL = ModelConfig(
    view_px=32, window_x=0, window_y=0, image_size=64, horizon=2, channels=(4, 8, 8), squeeze=2, width=32
)
STATISTICS = {"q01": [-0.01] * 6 + [0.0], "q99": [0.01] * 6 + [0.0], "mask": [True] * 6 + [False]}


@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=20))
def test_tokens_are_those_of_openvla(values):
    """Source: generalists.md: id = 32000 - digitize; decode centers[clip(32000 - id - 1, 0, 254)]."""
    edges = np.linspace(-1, 1, 256)
    ids = 32000 - np.digitize(np.clip(np.array(values), -1, 1), edges)
    assert np.array_equal(31999 - to_bins(values), ids)
    centers = (edges[:-1] + edges[1:]) / 2
    assert np.allclose(from_bins(to_bins(values)), centers[np.clip(32000 - ids - 1, 0, 254)])
    assert np.all(np.abs(from_bins(to_bins(values)) - np.clip(values, -1, 1)) <= 1 / 255 + 1e-6)


@settings(max_examples=50)
@given(st.lists(st.integers(-1000, 1000), min_size=7, max_size=7).map(lambda v: np.array(v) * 1e-5))
def test_normalisation_inverts_inside_the_quantiles(values):
    statistics = ActionStatistics.read(STATISTICS, "x")
    assert np.allclose(statistics.denormalise(statistics.normalise(values)), values, atol=1e-6)


def test_constant_and_masked_components():
    statistics = ActionStatistics.read({**STATISTICS, "q01": [0.0] * 7, "q99": [0.0] * 7}, "x")
    assert np.array_equal(statistics.normalise([0.3] * 7), np.array([0.0] * 6 + [0.3], dtype=np.float32))
    with pytest.raises(UserError, match="x: action statistics need 7 finite"):
        ActionStatistics.read({**STATISTICS, "q01": [0.0] * 6}, "x")


def test_bins_round_trip():
    assert np.array_equal(to_bins(bin_values()), np.minimum(np.arange(256), 254))


def test_soft_targets_centre_on_the_action():
    import torch

    actions = torch.tensor([-0.9, -0.2, 0.0, 0.73])
    target = train.soft_targets(actions, 3.0)
    assert torch.allclose(target.sum(-1), torch.ones(4))
    assert torch.allclose(target @ torch.from_numpy(bin_values()), actions, atol=2e-3)
    assert train.soft_targets(actions, 0.0).argmax(-1).tolist() == to_bins(actions.numpy()).tolist()


def test_instructions_share_tokens_and_differ():
    texts = ("insert the VGA connector", "insert the HDMI connector")
    seen, unseen = (set(instruction_tokens(text, 1024)) - {0} for text in texts)
    assert len(seen & unseen) > 10 and seen != unseen
    assert np.array_equal(instruction_tokens("Insert, the VGA", 64), instruction_tokens("insert the vga", 64))


def test_size_of_the_network():
    assert 1_000_000 < parameter_count(CompactModel(ModelConfig())) < 2_000_000


def toy_dataset(task: str = "insertion") -> Dataset:
    """The action along x follows the position of a white square: learnable from the image alone."""
    rng = np.random.default_rng(0)

    def episode(number: int) -> Episode:
        columns = rng.integers(4, 44, 9)
        images = []
        for column in columns:
            image = np.zeros((64, 64, 3), dtype=np.uint8)
            image[20:36, column : column + 16] = 255
            images.append(encode_jpeg(image))
        action = np.zeros((9, 7), dtype=np.float32)
        action[:, 0] = (columns - 24) / 24 * 0.01
        flags = np.zeros(9, dtype=bool)
        zeros = np.zeros((9, 8), np.float32)
        return Episode(
            images={"image": images},
            timestamp_s=zeros[:, 0],
            state=zeros,
            twist=zeros[:, :6],
            wrench=zeros[:, :6],
            action=action,
            reward=zeros[:, 0],
            is_first=flags,
            is_last=flags,
            is_terminal=flags,
            instruction="push",
            metadata={"task": task},
        )

    episodes = [episode(i) for i in range(12)]
    dataset = Dataset(Path("toy"), "toy", "1.0.0", {"action": STATISTICS}, {"train": (12,)}, {"image": (64, 64)})
    object.__setattr__(dataset, "episodes", lambda: iter(episodes))
    return dataset


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(train, "read_dataset", lambda path: toy_dataset())


def test_training_lowers_the_loss_and_repeats_bit_for_bit(toy, tmp_path):
    config = TrainConfig(steps=150, batch=16, warmup_steps=10, learning_rate=3e-3, validation_share=0.2, model=SMALL)
    calls = []
    result = train.finetune(Path("toy"), tmp_path / "a", config, seed=3, progress=lambda *done: calls.append(done))
    assert result.losses[-1] < 0.8 * result.losses[0] and calls[-1] == (150, 150)
    assert result.episodes == 12 and result.samples == 80
    again = train.finetune(Path("toy"), tmp_path / "b", config, seed=3)
    other = train.finetune(Path("toy"), tmp_path / "c", config, seed=4)
    assert again == result and other != result
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    saved = json.loads((tmp_path / "a" / "training.json").read_text())
    assert saved["losses"] == list(result.losses) and saved["seed"] == 3


def test_a_mixed_dataset_is_refused(monkeypatch, tmp_path):
    episodes = [*toy_dataset("a").episodes(), *toy_dataset("b").episodes()]
    dataset = toy_dataset()
    object.__setattr__(dataset, "episodes", lambda: iter(episodes))
    monkeypatch.setattr(train, "read_dataset", lambda path: dataset)
    with pytest.raises(UserError, match="several tasks"):
        train.finetune(Path("toy"), tmp_path / "a", TrainConfig(steps=1, model=SMALL))
    assert not (tmp_path / "a").exists()


def test_policy_acts_in_the_units_of_the_task(checkpoint, task, observe):
    policy = CompactPolicy(checkpoint, task)
    policy.warm_up()
    policy.reset("insert the VGA connector into the port", 0)
    chunk = policy.act(observe())
    assert chunk.shape == (4, 6) and np.all(np.abs(chunk) <= 1.0)
    assert policy.spec.version == 7 and policy.spec.statistics_key == "toy"
    assert np.array_equal(chunk, policy.act(observe()))
    started = time.process_time()
    for _ in range(20):
        policy.act(observe())
    assert (time.process_time() - started) / 20 < 0.02  # design goal 5 ms; slack for a busy machine


def test_views_show_the_whole_and_the_window():
    image = np.zeros((256, 256, 3), dtype=np.uint8)
    image[104:152, 78:174] = 255
    whole, window = views(encode_jpeg(image), ModelConfig())
    assert whole.shape == window.shape == (96, 96, 3)
    assert window[:44].min() > 200 and window[52:].max() < 60 and whole.mean() < 60


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", {"task": "pick"}, "made for task 'pick', this stack runs 'insertion'"),
        ("config.json", {"weights_sha256": "0"}, "model.safetensors: sha256 does not match"),
        ("config.json", {"format": "octo"}, "config.json: format"),
        ("config.json", {"statistics_key": "other"}, "no statistics for 'other'"),
        ("config.json", {"model": {"width": 64}}, "model.safetensors: does not fit config.json"),
        ("dataset_statistics.json", {"toy": {"action": {}}}, "need q01, q99 and mask"),
        ("dataset_statistics.json", {"toy": {"action": {**STATISTICS, "q99": [0.05] * 7}}}, "up to 0.0500 m per step"),
    ],
)
def test_a_checkpoint_of_another_specification_is_refused(checkpoint, task, file, change, reason):
    path = checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=reason) as error:
        CompactPolicy(checkpoint, task)
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_is_named(task, tmp_path):
    with pytest.raises(UserError, match=r"nowhere/config\.json: cannot read"):
        CompactPolicy(tmp_path / "nowhere", task)
    with pytest.raises(UserError, match="a checkpoint folder is needed"):
        CompactPolicy(None, task)


def test_expected_value_and_mode_decoding(checkpoint):
    import torch

    model = read_checkpoint(checkpoint).model
    logits = torch.full((1, 4, 7, 256), -100.0)
    logits[..., 10] = 0.0
    assert torch.allclose(model.expected(logits), model.values[10].expand(1, 4, 7))
