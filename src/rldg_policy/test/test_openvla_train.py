"""Fine-tuning of OpenVLA: losses, interruption, saves, guards, several processes."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from generalist_samples import Stopped, insertion_dataset, make_episode, stop_at, write_dataset
from openvla_processes import CONFIGURATIONS, ddp_then_fsdp, start
from openvla_train_samples import MODES, SMALLEST, make_batch, short
from safetensors.torch import load_file
from torch.nn import functional as F

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_policy.checkpoint.manifest import read_manifest
from rldg_policy.openvla import train, training_state
from rldg_policy.openvla.batch import Batch
from rldg_policy.openvla.checkpoint import read_checkpoint, read_model, write_random
from rldg_policy.openvla.config import PATCHES, DecodingConfig, OpenVLATrainConfig
from rldg_policy.openvla.policy import OpenVLAPolicy
from rldg_policy.openvla.processing import EOS, IGNORED, action_ids, action_values, pixel_values, with_slots
from rldg_policy.openvla.train import Objective, classification, finetune, main, regression
from rldg_policy.openvla.training_state import action_head

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base"
    write_random(path, SMALLEST, 0)
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return insertion_dataset(tmp_path_factory.mktemp("data"), episodes=3, transitions=4)


def files(folder: Path) -> dict[str, bytes]:
    """Return all files of a training but its wall-clock speed."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "training.json")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def part(batch: Batch, row: int) -> Batch:
    return Batch(*(None if value is None else value[row : row + 1] for value in batch))


# Losses and batches


def test_autoregressive_loss_equals_that_of_upstream(base):
    """Compare with Llama's own loss of labels that are IGNORED up to the last 8 ids, shifted by one."""
    batch = make_batch(base, short())
    model = read_model(base)
    assert batch.targets[:, -1].tolist() == [EOS, EOS] and batch.slot_mask is None
    assert torch.equal(batch.targets[:, :7], torch.from_numpy(action_ids(batch.actions[:, 0])))
    with torch.no_grad():
        logits = model(batch.input_ids, batch.pixel_values, batch.attention_mask).logits
        losses = Objective(model)(batch)
    labels = torch.full(logits.shape[:2], IGNORED)
    for row, count in enumerate(batch.attention_mask.sum(1).tolist()):
        labels[row, PATCHES + count - 8 : PATCHES + count] = batch.input_ids[row, count - 8 : count]
    expected = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED)
    assert torch.allclose(losses.loss, expected, atol=1e-5)
    predicted = action_values(logits[:, :-1].argmax(-1)[labels[:, 1:] > 31743])
    true = action_values(batch.targets[:, :7].reshape(-1))
    assert float(losses.l1) == pytest.approx(abs(predicted - true).mean(), abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_loss_is_independent_of_padding_and_of_other_samples(base, mode):
    """The loss of a batch with two lengths, one chunk cut at its episode's end, is the mean over its samples."""
    config = short(**MODES[mode])
    batch = make_batch(base, config)
    model = read_model(base)
    model.action_head = action_head(model, config, seed=0)
    objective = Objective(model)
    with torch.no_grad():
        together = objective(batch).loss
        alone = [objective(part(batch, row)).loss for row in (0, 1)]
    assert float(together) == pytest.approx(float(sum(alone) / 2), rel=1e-5)
    assert torch.allclose(batch.weight.sum(1), torch.ones(2))
    if mode != "ar":
        assert batch.weight[1, 7:].eq(0).all() and batch.slot_mask.sum(1).tolist() == [21, 21]
        assert not torch.isin(batch.input_ids[batch.slot_mask], batch.targets).any()


def test_accuracy_and_l1_of_known_answers(base):
    batch = make_batch(base, short(**MODES["bins"]))
    logits = F.one_hot(batch.targets, 32064).float() * 100
    perfect = classification(logits, batch)
    assert float(perfect.loss) < 1e-4 and float(perfect.accuracy) == 1 and float(perfect.l1) == 0
    # Wrong only beyond the end of the second sample's episode, where nothing counts.
    logits[1, 7:] = 0
    assert classification(logits, batch).accuracy == 1
    logits[1, 0] = F.one_hot(torch.tensor(31744), 32064)
    wrong = classification(logits, batch)
    assert float(wrong.accuracy) == pytest.approx(27 / 28)
    assert float(wrong.l1) == pytest.approx(abs(action_values(31744) - action_values(batch.targets[1, 0])) / 28)
    shifted = batch.actions + 0.25
    shifted[1, 1:] = 9.0
    assert float(regression(shifted, batch).loss) == pytest.approx(0.25)


def test_augmentation_depends_on_the_number_of_the_sample(base):
    plain, varied = (make_batch(base, short(augment=augment)).pixel_values for augment in (False, True))
    image = decode_jpeg(make_episode(0, 4, instruction="go").images["image"][0])
    assert plain.shape == (2, 6, 224, 224) and not torch.equal(plain, varied)
    assert float((plain[0] - pixel_values([image])[0]).abs().mean()) < 0.1
    assert torch.equal(varied, make_batch(base, short()).pixel_values)


@pytest.mark.parametrize("mode", MODES)
def test_training_lowers_the_loss(base, dataset, tmp_path, mode):
    config = short(**MODES[mode], learning_rate=1e-2, clip_norm=1.0)
    training = train.Training(train.open_training_set(dataset), base, tmp_path / "out", config, 0)
    micro_batches = [next(training.batches(skip=0))]
    losses = [training.optimise(micro_batches)[0] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_gradient_checkpointing_changes_no_bit(base, dataset, tmp_path):
    for name, checkpointing in (("with", True), ("without", False)):
        config = short(steps=1, accumulation=1, gradient_checkpointing=checkpointing)
        finetune(dataset, tmp_path / name, config, base=base)
    assert files(tmp_path / "with") == files(tmp_path / "without")


def test_bfloat16_weights_are_saved_in_bfloat16(base, dataset, tmp_path):
    finetune(dataset, tmp_path / "out", short(steps=1, precision="bf16"), base=base)
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {t.dtype for t in adapter.values()} == {torch.float32}


# Saves and interruption


@pytest.mark.parametrize("mode", ["ar", "l1"])
def test_interrupted_training_resumes_bit_for_bit(base, dataset, tmp_path, mode):
    """Weights, optimiser, generators, position and loss curve equal those of an uninterrupted training, which then
    ends."""
    config = short(steps=5, **MODES[mode])
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with pytest.raises(Stopped):
        finetune(dataset, whole, config, base=base, seed=3, progress=stop_at(4))
    with pytest.raises(Stopped):
        finetune(dataset, cut, config, base=base, seed=3, progress=stop_at(3))
    assert read_manifest(cut).version == 2
    torch.randn(5)
    with pytest.raises(Stopped):
        finetune(dataset, cut, config, base=base, seed=3, resume=True, progress=stop_at(4))
    assert ".training/state.safetensors" in files(whole)
    assert files(whole) == files(cut)
    result = finetune(dataset, cut, config, base=base, seed=3, resume=True)
    report = json.loads((cut / "training.json").read_text())
    assert (result.steps, result.samples, result.checkpoint, len(result.losses)) == (5, 20, cut, 1)
    assert report["losses"] == list(result.losses) and report["config"]["rank"] == 4 and report["seed"] == 3
    assert not (cut / ".training").exists() and not list(tmp_path.glob(".*"))


def test_killed_save_keeps_the_previous_one(base, dataset, tmp_path):
    """SIGKILL while the second save is half written; its leftovers are removed."""
    config = short(steps=4, accumulation=1)
    finetune(dataset, tmp_path / "whole", config, base=base)
    killed = tmp_path / "killed"
    child = os.fork()
    if child == 0:
        write = training_state.write_adapter

        def write_adapter(folder, *arguments):
            if killed.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            write(folder, *arguments)

        training_state.write_adapter = write_adapter
        finetune(dataset, killed, config, base=base)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert read_manifest(killed).version == 2 and len(list(tmp_path.glob(".killed.*.partial"))) == 1
    finetune(dataset, killed, config, base=base, resume=True)
    assert files(killed) == files(tmp_path / "whole") and not list(tmp_path.glob(".*"))


def test_saves_follow_optimiser_steps_only(base, dataset, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(train, "write_save", lambda out, contents, result, *rest: saved.append(result.steps))
    finetune(dataset, tmp_path / "out", short(steps=3, accumulation=3, batch=1), base=base)
    assert saved == [2, 3]


@pytest.mark.parametrize("mode", MODES)
def test_checkpoint_acts_like_the_trained_model(base, dataset, tmp_path, mode, task, observe, monkeypatch):
    """The merged model, read again, equals the adapted one; its folder holds all that serving needs."""
    trained = {}

    def write_save(out, contents, *arguments):
        trained["model"] = contents.start.model
        training_state.write_save(out, contents, *arguments)

    monkeypatch.setattr(train, "write_save", write_save)
    config = short(steps=2, batch=1, learning_rate=5e-3, augment=False, **MODES[mode])
    out = tmp_path / "out"
    finetune(dataset, out, config, base=base)
    checkpoint = read_checkpoint(out)
    horizon = config.horizon
    assert checkpoint.decoding == DecodingConfig(**MODES[mode], centre_crop=False)
    assert checkpoint.statistics_key == "made_up" and checkpoint.manifest.tasks == ("insertion",)
    assert checkpoint.manifest.horizon == horizon and checkpoint.manifest.version == 2
    prompt = torch.tensor([1, 300, 29871]).numpy()
    ids, slots = with_slots(prompt, horizon if mode != "ar" else 0)
    inputs = torch.from_numpy(ids)[None], torch.linspace(-1, 1, 6 * 224 * 224).reshape(1, 6, 224, 224)
    with torch.no_grad():
        ours, served = (
            model.hidden(*inputs, slot_mask=torch.from_numpy(slots)[None])
            for model in (trained["model"], checkpoint.model)
        )
    assert torch.allclose(ours, served, atol=1e-4)
    policy = OpenVLAPolicy(out, task)
    policy.reset("insert the VGA connector into the port", 0)
    assert policy.act(observe()).shape == (horizon, task.action.dim)


# Guards


def test_non_finite_loss_keeps_the_last_good_checkpoint(base, dataset, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"step \d+: loss is nan.*last good checkpoint: {out}$"):
        finetune(dataset, out, short(save_every=1).model_copy(update={"learning_rate": 1e9}), base=base)
    assert read_manifest(out).version == 1
    with pytest.raises(UserError, match=r"step 2: loss is nan.*no checkpoint was written"):
        finetune(dataset, tmp_path / "none", short().model_copy(update={"learning_rate": 1e9}), base=base)
    assert not (tmp_path / "none").exists()


def test_out_of_memory_names_the_options_to_lower(base, dataset, tmp_path, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(train.Training, "optimise", exhausted)
    with pytest.raises(UserError, match=r"^out of memory: lower batch and raise accumulation"):
        finetune(dataset, tmp_path / "out", short(), base=base)


def test_resuming_with_other_settings_is_refused(base, dataset, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        finetune(dataset, out, short(accumulation=1), base=base, progress=stop_at(2))
    before = files(out)
    other = tmp_path / "other"
    write_random(other, SMALLEST, 1)
    data = write_dataset(tmp_path, [make_episode(7, 4)])
    for reason, changed in {
        "unfinished training": {"resume": False},
        "cannot resume: seed was 0, now it is 1": {"seed": 1},
        "cannot resume: accumulation was 1, now it is 2": {"config": short()},
        "cannot resume: base was": {"base": other},
        "cannot resume: the dataset is not the one": {"dataset": data},
        "steps: 2, but .* is already at step 2": {"config": short(accumulation=1, steps=2)},
    }.items():
        options = {"dataset": dataset, "config": short(accumulation=1), "base": base, "resume": True, **changed}
        with pytest.raises(UserError, match=reason) as error:
            finetune(out=out, **options)
        assert "\n" not in str(error.value)
    assert files(out) == before


def test_unusable_input_is_refused(base, dataset, tmp_path):
    silent = write_dataset(tmp_path, [make_episode(0, 4, instruction="")])
    for reason, options in {
        "base: OpenVLA is fine-tuned from a checkpoint": {"dataset": dataset, "base": None},
        r"nothing/config\.json: cannot read": {"dataset": dataset, "base": tmp_path / "nothing"},
        "not fit for training": {"dataset": silent, "base": base},
    }.items():
        with pytest.raises(UserError, match=reason):
            finetune(out=tmp_path / "out", config=short(), **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="need decoding parallel"):
        OpenVLATrainConfig(head="l1")


def test_command_line_trains_and_refuses_bad_options(base, dataset, tmp_path, capsys):
    places = [str(dataset), "--base", str(base), "--out", str(tmp_path / "out")]
    assert main([*places, "--steps", "1", "--batch", "1", "--accumulation", "1", "--rank", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 1
    assert main([*places, "--steps", "0"]) == 2
    assert capsys.readouterr().err == "error: options: steps: Input should be greater than or equal to 1, got '0'\n"


# Several processes


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_accelerate_reads_the_shipped_configurations(name, kind):
    config = load_config_from_file(str(CONFIGURATIONS / f"{name}.yaml"))
    assert config.distributed_type == kind and config.mixed_precision == "no" and config.num_processes == 2


def test_two_processes_equal_one_with_twice_the_batch(base, dataset, tmp_path):
    """Train with DDP, and with FSDP and an interruption, over gloo."""
    folders = [tmp_path / "ddp", tmp_path / "fsdp"]
    children = start(lambda: ddp_then_fsdp(dataset, base, *folders, short(steps=2, save_every=1)), 2)
    try:
        single = tmp_path / "single"
        alone = finetune(dataset, single, short(steps=2, batch=4), base=base, seed=1)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    except BaseException:
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        raise
    for folder in folders:
        report = json.loads((folder / "training.json").read_text())
        assert report["processes"] == 2 and report["samples"] == alone.samples == 16
        assert report["losses"] == pytest.approx(alone.losses, rel=1e-6)
        for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
            ours, expected = load_file(folder / name), load_file(single / name)
            assert set(ours) == set(expected)
            assert all(torch.allclose(ours[key], expected[key], atol=5e-5) for key in expected)
    trained = load_file(single / "adapter" / "adapter_model.safetensors")
    assert max(float(tensor.abs().max()) for name, tensor in trained.items() if "lora_B" in name) > 5e-4
