"""Non-finite numbers, and inputs that would lose a part: an error, never the nearest valid action."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generalist_samples import insertion_dataset
from octo_samples import SMALLEST
from safetensors.torch import load_file, save_file

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.instructions import MAX_INSTRUCTION
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, read_manifest, write_manifest
from rldg_policy.checkpoint.statistics import STATISTICS_FILE, ActionStatistics, choose_statistics, to_unit_actions
from rldg_policy.compact import checkpoint as compact_files
from rldg_policy.compact.config import ModelConfig, TrainConfig
from rldg_policy.compact.inputs import instruction_tokens
from rldg_policy.compact.policy import CompactPolicy
from rldg_policy.compact.train import finetune
from rldg_policy.openvla import checkpoint as openvla_files
from rldg_policy.openvla.checkpoint import read_model
from rldg_policy.openvla.config import DecodingConfig, OpenVLAConfig
from rldg_policy.openvla.policy import OpenVLAPolicy
from rldg_policy.openvla.processing import PromptTokenizer, write_byte_tokenizer
from rldg_policy.training.torch_state import read_state

torch.set_num_threads(1)
BROKEN = [float("nan"), float("inf"), float("-inf")]
SMALL = {"channels": (4, 8, 8), "squeeze": 2, "width": 32}


def check_refused(call: Callable[[], Any], reason: str, kind: type[Exception] = UserError) -> None:
    with pytest.raises(kind, match=reason) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def spoil(path: Path, name: str, value: float) -> None:
    """Write such a number into a tensor of a safetensors file."""
    tensors = load_file(path)
    tensors[name].view(-1)[0] = value
    save_file(tensors, path)


@pytest.mark.parametrize("value", BROKEN)
def test_non_finite_compact_weights_are_refused(tmp_path: Path, value: float) -> None:
    compact_files.write_random(tmp_path / "c", ModelConfig(**SMALL), 0)
    path = tmp_path / "c" / compact_files.WEIGHTS_FILE
    spoil(path, "stems.0.conv1.bias", value)
    config = json.loads((tmp_path / "c/config.json").read_text())
    config["weights_sha256"] = sha256_hex(path.read_bytes())
    (tmp_path / "c/config.json").write_text(json.dumps(config))
    check_refused(
        lambda: compact_files.read_checkpoint(tmp_path / "c"), r"stems\.0\.conv1\.bias holds a value that is not"
    )


@pytest.mark.parametrize("value", BROKEN)
def test_non_finite_openvla_weights_are_refused(tmp_path: Path, value: float) -> None:
    l1 = DecodingConfig(decoding="parallel", head="l1", horizon=2)
    for name, decoding in (("a", DecodingConfig()), ("b", l1)):
        openvla_files.write_random(tmp_path / name, OpenVLAConfig.tiny(), 0, decoding)
    spoil(tmp_path / "a/model.safetensors", "projector.fc1.bias", value)
    check_refused(lambda: read_model(tmp_path / "a"), r"projector\.fc1\.bias holds a value that is not finite")
    check_refused(lambda: read_model(tmp_path / "a", dtype=torch.bfloat16), r"projector\.fc1\.bias holds")
    spoil(tmp_path / "b/action_head.safetensors", "action_head.fc_out.bias", value)
    check_refused(lambda: read_model(tmp_path / "b"), r"action_head\.fc_out\.bias holds a value that is not finite")


def test_non_finite_training_state_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(steps=20, batch=2, save_every=10, model=ModelConfig(**SMALL))

    def stop(done: int, steps: int) -> None:
        if done == 10 and (tmp_path / "out/.training/state").is_dir():
            raise KeyboardInterrupt

    data = insertion_dataset(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finetune(data, tmp_path / "out", config.model_copy(update={"save_every": 5}), progress=stop)
    state = tmp_path / "out/.training/state"
    spoil(state / "state.safetensors", "model.trunk.0.bias", float("nan"))
    check_refused(
        lambda: read_state(state), r"state\.safetensors: model\.trunk\.0\.bias holds a value that is not finite"
    )
    config = config.model_copy(update={"save_every": 5})
    check_refused(lambda: finetune(data, tmp_path / "out", config, resume=True), "holds a value that is not finite")


@pytest.mark.parametrize(
    ("head", "decode"),
    [("bins", "sample"), ("bins", "mean"), ("bins", "mode"), ("diffusion", "sample"), ("diffusion", "mean")],
)
@pytest.mark.parametrize("value", BROKEN)
def test_non_finite_compact_outputs_are_refused(tmp_path: Path, task, observe, head: str, decode: str, value: float):
    compact_files.write_random(tmp_path / "c", ModelConfig(head=head, decode=decode, **SMALL), 0)
    policy = CompactPolicy(tmp_path / "c", task)
    with torch.no_grad():
        layer = policy._model.head.bins if head == "bins" else policy._model.head.from_features
        layer.bias[3] = value
    policy.reset("insert", 0)
    with pytest.raises((ValueError, RuntimeError)):
        policy.act(observe())


@pytest.mark.parametrize("kind", ["ar", "bins", "l1"])
@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("value", BROKEN)
def test_non_finite_openvla_outputs_are_refused(tmp_path: Path, task, observe, kind: str, explore: bool, value: float):
    decodings = {
        "ar": DecodingConfig(),
        "bins": DecodingConfig(decoding="parallel", horizon=2),
        "l1": DecodingConfig(decoding="parallel", head="l1", horizon=2),
    }
    openvla_files.write_random(tmp_path / "c", OpenVLAConfig.tiny(), 0, decodings[kind])
    policy = OpenVLAPolicy(tmp_path / "c", task, explore)
    policy.reset("insert", 0)
    policy.act(observe())
    model = policy._checkpoint.model
    with torch.no_grad():
        # One row of the vocabulary: arg-max would return that token, or any.
        (model.action_head.fc_out.bias if kind == "l1" else model.language_model.lm_head.weight[31800]).fill_(value)
    with pytest.raises(ValueError, match="not finite"):
        policy.act(observe())


def test_openvla_answer_without_action_tokens_is_refused(tmp_path: Path, task, observe) -> None:
    openvla_files.write_random(tmp_path / "c", OpenVLAConfig.tiny(), 0)
    policy = OpenVLAPolicy(tmp_path / "c", task)
    policy.reset("insert", 0)
    with torch.no_grad():
        policy._checkpoint.model.language_model.lm_head.weight[31744:32000] *= 1e-3
    with pytest.raises(ValueError, match=r"predicts token \d+, which is not an action token"):
        policy.act(observe())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"q01": "q99", "q99": "q01"}, r"q99\[0\] is -0\.01, below q01 0\.01: .* \(swapped\?\)"),
        ({"q99": "q01"}, r"q01\[0\] is -0\.01, equal to q99 -0\.01"),
        ({"std": "zero"}, r"std\[0\] is 0, not above 0"),
        ({"std": "q01"}, r"std\[0\] is -0\.01, below 0"),
        ({"min": "max", "max": "min"}, r"\[0\] is .*, below min"),
        ({"q99": "far"}, r"max\[0\] is 0\.02, below q99 1"),
        ({"q01": "low"}, r"q01\[0\] is -1, below min -0\.02"),
        ({"mean": "far"}, r"max\[0\] is 0\.02, below mean 1"),
        ({"mask": "nothing"}, "mask: all false"),
        ({"std": "six"}, "std: expected 7 finite numbers, one per component, got 6"),
        ({"q01": "nan"}, "q01: expected 7 finite numbers"),
        ({"mean": "nan"}, "mean: expected 7 finite numbers"),
    ],
)
@pytest.mark.parametrize("kind", ["compact", "openvla"])
def test_invalid_statistics_are_refused(tmp_path: Path, kind: str, changes: dict[str, str], reason: str) -> None:
    """The checksums are valid: the file was written with these values."""
    folder = tmp_path / "c"
    if kind == "compact":
        compact_files.write_random(folder, ModelConfig(**SMALL), 0)
    else:
        openvla_files.write_random(folder, OpenVLAConfig.tiny(), 0)
    statistics = json.loads((folder / STATISTICS_FILE).read_text())
    before = {
        "q01": [-0.01] * 6 + [0.0], "q99": [0.01] * 6 + [1.0], "min": [-0.02] * 6 + [0.0], "max": [0.02] * 6 + [1.0],
        "mean": [0.0] * 7, "std": [0.004] * 7, "mask": [True] * 6 + [False],
    }  # fmt: skip
    more = {"far": [1.0] * 7, "low": [-1.0] * 7, "nothing": [False] * 7, "six": [0.1] * 6}
    values = {**before, **more, "zero": [0.0] * 7, "nan": [float("nan")] * 7}
    action = {**before, **{name: values[of] for name, of in changes.items()}}
    statistics["random"]["action"] = action
    (folder / STATISTICS_FILE).write_text(json.dumps(statistics))
    manifest = read_manifest(folder)
    assert manifest
    digest = sha256_hex((folder / STATISTICS_FILE).read_bytes())
    write_manifest(folder, manifest.model_copy(update={"statistics_sha256": digest}))
    check_refused(lambda: choose_statistics(folder, read_manifest(folder)), reason)
    with pytest.raises(UserError):
        (CompactPolicy if kind == "compact" else OpenVLAPolicy)(folder, None)
    assert (folder / MANIFEST_FILE).is_file()


def test_constant_or_masked_components_may_have_zero_width() -> None:
    fixed = {name: [0.25] * 7 for name in ("mean", "min", "max", "q01", "q99")} | {"std": [0.0] * 7}
    found = ActionStatistics.read(fixed, "x")
    assert found.bounds_denormalise(np.zeros(7)).tolist() == [0.25] * 7
    ActionStatistics.read({"q01": [0.0] + [1.0] * 6, "q99": [1.0] * 7, "mask": [True] + [False] * 6}, "x")


@pytest.mark.parametrize("value", BROKEN)
def test_non_finite_action_is_not_clipped(task, value: float) -> None:
    check_refused(lambda: to_unit_actions([[value] + [0.0] * 6], task, 6), "not finite", ValueError)


# -- instructions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("", "^instruction: must not be empty$"),
        ("  ", "^instruction: must not be empty$"),
        ("x" * (MAX_INSTRUCTION + 1), "501 characters, expected at most 500"),
        ("pick " * 6000, "30000 characters, expected at most 500"),
        ("insert\nthe plug", "holds a control character"),
        ("insert\x00", "holds a control character"),
    ],
)
def test_invalid_instruction_is_refused_by_every_generalist(tmp_path: Path, instruction: str, reason: str) -> None:
    write_byte_tokenizer(tmp_path)
    for read in (lambda text: instruction_tokens(text, 64), PromptTokenizer(tmp_path)):
        check_refused(lambda: read(instruction), reason)  # noqa: B023


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("插入插头", "only the letters a-z and digits, not '插'"),
        ("插入 VGA", "not '插'"),
        ("insère la fiche", "not 'è'"),
        ("... !?", "contains no word"),
        ("put the plug " * 10, r"\d+ words and trigrams, the compact generalist takes 96"),
    ],
)
def test_instruction_that_compact_would_shorten_is_refused(instruction: str, reason: str) -> None:
    check_refused(lambda: instruction_tokens(instruction, 64), reason)


def test_long_instructions_with_different_ends_are_refused() -> None:
    longest = "insert the left black vga connector into the upper blue port now"
    assert np.count_nonzero(instruction_tokens(longest, 1024)) <= 96
    for ending in ("left", "right"):
        text = f"{longest} and go {longest} {ending}"
        check_refused(lambda: instruction_tokens(text, 1024), "shorten it")  # noqa: B023


def test_instruction_that_openvla_would_misread_is_refused(tmp_path: Path) -> None:
    write_byte_tokenizer(tmp_path)
    tokenizer = PromptTokenizer(tmp_path)
    assert len(tokenizer("插入插头")) > 4  # encoded as bytes: nothing is lost
    check_refused(lambda: tokenizer("stop</s>now"), "becomes control token '</s>'")
    check_refused(lambda: tokenizer("a <unk> b"), "becomes control token '<unk>'")
    check_refused(lambda: tokenizer("插" * 400), r"\d+ tokens with the prompt, OpenVLA takes 512")


def test_instruction_that_octo_would_shorten_is_refused() -> None:
    from rldg_policy.octo.checkpoint import random_checkpoint

    tokenizer = random_checkpoint(SMALLEST, 0).tokenizer
    length = tokenizer.config.tokenizer_kwargs.max_length
    assert tokenizer(["insert the VGA connector"])["input_ids"].shape == (1, length)
    check_refused(lambda: tokenizer(["insert " * (length + 1)]), rf"{length + 1} tokens, this Octo takes {length}")
    check_refused(lambda: tokenizer(["插入 connector"]), "has words that are not in this Octo's vocabulary")
    check_refused(lambda: tokenizer([""]), "^instruction: must not be empty$")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_octo_weights_and_outputs_are_refused(tmp_path, monkeypatch, task, observe, value: float) -> None:
    from rldg_policy.octo.checkpoint import random_checkpoint, read_checkpoint, write_checkpoint, write_random
    from rldg_policy.octo.policy import OctoPolicy

    write_random(tmp_path / "c", SMALLEST, 0)
    good = read_checkpoint(tmp_path / "c")
    policy = OctoPolicy(tmp_path / "c", task)
    params = random_checkpoint(SMALLEST, 0).params
    bias = params["heads_action"]["diffusion_model"]["reverse_network"]["Dense_1"]["bias"]
    params["heads_action"]["diffusion_model"]["reverse_network"]["Dense_1"]["bias"] = np.full_like(bias, value)
    policy._params = params
    policy.reset("insert", 0)
    with pytest.raises(ValueError, match="not finite"):
        policy.act(observe())
    from dataclasses import replace

    statistics = (tmp_path / "c" / STATISTICS_FILE).read_bytes()
    spoiled = replace(good, params=params)
    check_refused(
        lambda: write_checkpoint(tmp_path / "d", spoiled, statistics, good.manifest), "d: not written: .*not finite"
    )
    with monkeypatch.context() as patched:
        patched.setattr("rldg_policy.octo.checkpoint.check_finite", lambda *_: None)
        write_checkpoint(tmp_path / "d", spoiled, statistics, good.manifest)
    check_refused(lambda: read_checkpoint(tmp_path / "d"), "bias holds a value that is not finite")
