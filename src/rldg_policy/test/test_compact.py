"""The compact generalist: inputs, colours, heads, checkpoints and the back-end; test_compact_train.py tests
training."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_policy.action_bins import bin_values, from_bins, to_bins
from rldg_policy.checkpoint.statistics import ActionStatistics
from rldg_policy.compact.checkpoint import read_checkpoint, write_random
from rldg_policy.compact.config import ModelConfig, TrainConfig
from rldg_policy.compact.heads import DiffusionHead, DiffusionSampler, cosine_betas, make_head, soft_targets
from rldg_policy.compact.inputs import instruction_tokens, mirrored, to_input, view_images, views
from rldg_policy.compact.model import parameter_count, random_model
from rldg_policy.compact.policy import CompactPolicy
from rldg_policy.compact.train import MIRRORED, recoloured

INSTRUCTION = "insert the VGA connector into the port"


@given(st.lists(st.floats(-1.5, 1.5, width=32), min_size=1, max_size=20))
def test_action_tokens_equal_those_of_openvla(values):
    """Source: OpenVLA: id = 32000 - digitize; decode centers[clip(32000 - id - 1, 0, 254)]."""
    edges = np.linspace(-1, 1, 256)
    ids = 32000 - np.digitize(np.clip(np.array(values), -1, 1), edges)
    assert np.array_equal(31999 - to_bins(values), ids)
    centers = (edges[:-1] + edges[1:]) / 2
    assert np.allclose(from_bins(to_bins(values)), centers[np.clip(32000 - ids - 1, 0, 254)])
    assert np.all(np.abs(from_bins(to_bins(values)) - np.clip(values, -1, 1)) <= 1 / 255 + 1e-6)


def test_bins_survive_a_round_trip():
    assert np.array_equal(to_bins(bin_values()), np.minimum(np.arange(256), 254))


def test_soft_targets_are_centred_on_the_action():
    actions = torch.tensor([-0.9, -0.2, 0.0, 0.73])
    target = soft_targets(actions, 3.0)
    assert torch.allclose(target.sum(-1), torch.ones(4))
    assert torch.allclose(target @ torch.from_numpy(bin_values()), actions, atol=2e-3)
    assert soft_targets(actions, 0.0).argmax(-1).tolist() == to_bins(actions.numpy()).tolist()


@pytest.mark.parametrize("head", ["bins", "diffusion"])
def test_head_normalises_by_its_own_statistics(head):
    low, high = [-0.01] * 6 + [0.0], [0.02] * 6 + [1.0]
    entry = {"mean": [0.001] * 7, "std": [0.004] * 7, "min": low, "max": high, "q01": low, "q99": high}
    statistics = ActionStatistics.read({**entry, "mask": [True] * 6 + [False]}, "x")
    action = np.array([[0.005, -0.01, 0.02, 0.0, 0.001, -0.003, 0.7]], dtype=np.float32)
    made = make_head(ModelConfig(head=head))
    normalised = made.normalise(statistics, action)
    assert normalised[0, 0] == pytest.approx(0.0 if head == "bins" else 1.0, abs=1e-4) and normalised[0, 6] == 0.7
    np.testing.assert_allclose(made.denormalise(statistics, normalised), action, atol=1e-6)


def test_noise_schedule_reaches_zero_smoothly():
    """20 steps of the cosine schedule: almost no signal is left at the end, and no step removes all of it."""
    betas = cosine_betas(20)
    assert betas.shape == (20,) and np.all(np.diff(betas) > 0) and betas[-1] == 0.999
    half, start = (np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 for t in (0.5, 0.0))
    assert np.prod(1 - betas[:10]) == pytest.approx(half / start, rel=1e-6)


@pytest.mark.parametrize("denoising_steps", [1, 2, 12, 20])
def test_denoising_with_the_true_answer_returns_the_action(monkeypatch, denoising_steps):
    """With a perfect network, any number of the 20 levels ends at the action, from noise and from zeros."""
    config = ModelConfig(head="diffusion", horizon=2, denoising_steps=denoising_steps)
    head = DiffusionHead(config)
    assert head.levels[0] == 19 and len(set(head.levels)) == denoising_steps
    assert denoising_steps == 1 or head.levels[-1] == 0
    truth = np.linspace(-2, 2, 14, dtype=np.float32)
    steps = iter([])

    def true_velocity(self, condition, noisy):
        kept = float(head.kept[next(steps)])
        noise = (noisy - kept**0.5 * truth) / (1 - kept) ** 0.5
        return kept**0.5 * noise - (1 - kept) ** 0.5 * truth

    monkeypatch.setattr(DiffusionSampler, "velocity", true_velocity)
    for rng in (None, torch.Generator().manual_seed(0)):
        steps = iter(head.levels)
        found = head.sampler()(torch.zeros(1, config.width), rng)
        np.testing.assert_allclose(found.reshape(14), truth, atol=1e-4)


def test_network_of_inference_equals_that_of_training():
    head = random_model(ModelConfig(head="diffusion"), 4).head
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    condition, noisy = (torch.randn(3, n, generator=torch.Generator().manual_seed(n)) for n in (128, 28))
    sampler = DiffusionSampler(head)
    found = [sampler.velocity(*row) for row in zip(condition.numpy(), noisy.numpy(), strict=True)]
    np.testing.assert_allclose(found, head(condition, noisy).detach().numpy(), atol=1e-3, rtol=1e-4)


def test_different_instructions_share_some_tokens():
    texts = ("insert the VGA connector", "insert the HDMI connector")
    seen, unseen = (set(instruction_tokens(text, 1024)) - {0} for text in texts)
    assert len(seen & unseen) > 10 and seen != unseen
    assert np.array_equal(instruction_tokens("Insert, the VGA", 64), instruction_tokens("insert the vga", 64))


@pytest.mark.parametrize("head", ["bins", "diffusion"])
def test_network_has_the_stated_size(head):
    for window in (1, 2):
        model = random_model(ModelConfig(head=head, window=window), 0)
        assert 1_000_000 < parameter_count(model) < 3_000_000


def test_views_show_the_whole_image_and_the_window():
    image = np.zeros((256, 256, 3), dtype=np.uint8)
    image[96:144, 80:176] = 255
    config = ModelConfig()
    pixels = views(encode_jpeg(image), config)
    whole, tip = view_images(to_input(pixels[None]), config)
    assert pixels.shape == (config.pixels, 3) and whole.shape[2:] == (64, 64) and tip.shape[2:] == (96, 96)
    assert tip[0, :, :44].min() > 0.8 and tip[0, :, 52:].max() < 0.2 and whole.mean() < 0.2
    with pytest.raises(ValueError, match="leaves the image of 64 px"):
        ModelConfig(image_size=64)


def test_mirror_exchanges_left_and_right():
    config = ModelConfig(image_size=64, whole_px=16, tip_px=32, tip_x=16, tip_y=0)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    seen, flipped = (views(encode_jpeg(i, 100), config) for i in (image, np.ascontiguousarray(image[:, ::-1])))
    assert np.abs(mirrored(seen, config).astype(int) - flipped).max() <= 12  # two JPEG files
    assert np.array_equal(mirrored(mirrored(seen, config), config), seen)
    assert MIRRORED.tolist() == [1, -1, 1, -1, 1, -1, 1]
    with pytest.raises(ValueError, match="not centred in the image"):
        TrainConfig(mirror=0.5, model=ModelConfig(tip_x=70))


def test_recolouring_keeps_positions():
    """Pixels of one colour stay equal in both views of a sample; samples differ; a seed repeats."""
    pixels = torch.tensor([[0.2, 0.5, 0.9], [0.1, 0.25, 0.45]]).repeat(3, 20, 1)
    config = TrainConfig()
    first, again = (recoloured(pixels, config, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and not torch.allclose(first[0], first[1])
    torch.testing.assert_close(first[:, ::2], first[:, :1].expand(-1, 20, -1))
    torch.testing.assert_close(first[:, 1::2], first[:, 1:2].expand(-1, 20, -1))
    still = TrainConfig(recolour=0, wave=0, grey=0, jitter=0)
    torch.testing.assert_close(recoloured(pixels, still, torch.Generator()), pixels)


@pytest.mark.parametrize("head", ["bins", "diffusion"])
def test_policy_acts_in_the_units_of_the_task(head, task, observe, tmp_path):
    write_random(tmp_path / "c", ModelConfig(head=head, decode="mean"), 3)
    policy = CompactPolicy(tmp_path / "c", task)
    policy.warm_up()
    policy.reset(INSTRUCTION, 0)
    chunk = policy.act(observe())
    assert chunk.shape == (4, 6) and chunk.dtype == np.float32 and 0 < np.abs(chunk).max() <= 1.0
    assert policy.spec.statistics_key == "random" and policy.spec.rate_hz == task.rates.control_hz
    assert np.array_equal(chunk, policy.act(observe()))


@pytest.mark.parametrize("head", ["bins", "diffusion"])
@pytest.mark.parametrize(("decode", "explore"), [("sample", False), ("mean", True)])
def test_sampling_repeats_with_the_seed(head, decode, explore, task, observe, tmp_path):
    write_random(tmp_path / "c", ModelConfig(head=head, decode=decode), 3)
    policy = CompactPolicy(tmp_path / "c", task, explore)
    chunks = []
    for seed in (1, 1, 2):
        policy.reset(INSTRUCTION, seed)
        chunks.append([policy.act(observe()) for _ in range(3)])
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert not np.array_equal(chunks[0], chunks[2]) and not np.array_equal(chunks[0][0], chunks[0][1])


def test_window_of_two_uses_the_previous_image(task, observe, tmp_path):
    write_random(tmp_path / "c", ModelConfig(window=2, decode="mean"), 0)
    policy = CompactPolicy(tmp_path / "c", task)
    bright = replace(observe(), images={"wrist": encode_jpeg(np.full((256, 256, 3), 200, dtype=np.uint8))})

    def answer(*before):
        policy.reset(INSTRUCTION, 0)
        for observation in before:
            policy.remember(observation)
        return policy.act(observe())

    assert policy.spec.window == 2
    alone, after_bright, after_same = answer(), answer(bright), answer(observe())
    assert not np.array_equal(alone, after_bright) and not np.array_equal(after_bright, after_same)
    assert not np.array_equal(alone, after_same)  # before the start the image is masked, not repeated
    np.testing.assert_array_equal(answer(bright, observe()), after_same)


def test_mean_and_mode_decoding_differ(checkpoint):
    config = ModelConfig()
    logits = torch.full((1, 4, 7, 256), -100.0)
    logits[..., 10] = 1.0
    logits[..., 20] = 0.9
    found = {}
    for decode in ("mean", "mode"):
        head = make_head(config.model_copy(update={"decode": decode}))
        head.forward = lambda features: logits
        found[decode] = float(head.sampler()(torch.zeros(1, config.width), None)[0, 0, 0])
    assert found["mode"] == pytest.approx(from_bins(10), abs=1e-6)
    assert from_bins(10) < found["mean"] < from_bins(20)


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("rldg.json", {"tasks": ["pick"]}, "made for task 'pick', this stack runs 'insertion'"),
        ("rldg.json", {"backend": "octo"}, "rldg.json: backend: a checkpoint of octo, not of compact"),
        ("rldg.json", {"image_size": 128}, "rldg.json: image_size differs from that of config.json"),
        ("rldg.json", {"statistics_key": "other"}, "no statistics for 'other'"),
        ("config.json", {"weights_sha256": "0"}, "model.safetensors: sha256 does not match"),
        ("config.json", {"format": "octo"}, "config.json: format"),
        ("config.json", {"model": {"width": 64}}, "model.safetensors: does not fit config.json"),
        ("config.json", {"model": {"head": "diffusion", "decode": "mode"}}, "config.json: .*mode needs head bins"),
        ("config.json", {"model": {"denoising_steps": 21}}, "more than the 20 diffusion_steps"),
        ("config.json", {"model": {"head": "diffusion"}}, "does not fit config.json: .*Missing key"),
        ("dataset_statistics.json", {"toy": {"action": {}}}, "its sha256 differs"),
    ],
)
def test_checkpoint_of_another_specification_is_refused(checkpoint, task, file, change, reason):
    path = checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=reason) as error:
        CompactPolicy(checkpoint, task)
    assert "\n" not in str(error.value)


def test_missing_checkpoint_is_refused_by_name(task, checkpoint):
    with pytest.raises(UserError, match=r"nowhere/config\.json: cannot read"):
        CompactPolicy(checkpoint / "nowhere", task)
    with pytest.raises(UserError, match="expected a checkpoint folder"):
        CompactPolicy(None, task)
    (checkpoint / "rldg.json").unlink()
    with pytest.raises(UserError, match=r"rldg\.json: missing"):
        CompactPolicy(checkpoint, task)


def test_bad_input_during_an_episode_is_refused(checkpoint, task, observe):
    policy = CompactPolicy(checkpoint, task)
    with pytest.raises(UserError, match=r"^instruction: must not be empty$"):
        policy.reset("  ", 0)
    policy.reset(INSTRUCTION, 0)
    with pytest.raises(ValueError, match="no image of camera 'wrist'"):
        policy.act(replace(observe(), images={}))
    with pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        policy.act(replace(observe(), images={"wrist": b"nonsense"}))


@settings(max_examples=10)
@given(st.integers(0, 2**63 - 1))
def test_random_checkpoints_repeat(seed):
    first, again = (random_model(ModelConfig(width=16, channels=(4, 4, 4), squeeze=1), seed) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_checkpoint_survives_a_round_trip(tmp_path):
    write_random(tmp_path / "c", ModelConfig(head="diffusion"), 5)
    found = read_checkpoint(tmp_path / "c")
    expected = random_model(ModelConfig(head="diffusion"), 5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.model.state_dict().items())
    assert found.manifest.tasks == () and found.manifest.horizon == 4
