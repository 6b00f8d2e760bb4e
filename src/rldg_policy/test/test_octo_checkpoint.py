"""Octo's checkpoint folders: upstream's are read, ours survive a round trip, damaged ones are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict
from golden_references import reference as golden_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from octo_samples import SMALLEST

from rldg_core.errors import UserError
from rldg_policy.checkpoint.manifest import read_manifest
from rldg_policy.checkpoint.statistics import choose_statistics
from rldg_policy.octo import checkpoint as under_test
from rldg_policy.octo.checkpoint import random_checkpoint, read_checkpoint, write_checkpoint, write_random
from rldg_policy.octo.config import T5_BASE, TextConfig
from rldg_policy.octo.tokenizer import find_t5, find_tokenizer
from rldg_policy.octo.train import rldg_variant

pytestmark = pytest.mark.timeout(300)  # XLA compiles for half a minute, longer on a busy machine


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("octo") / "random"
    write_random(folder, SMALLEST, 3)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    """Copy a checkpoint folder that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "octo"))


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def test_folder_of_upstream_is_read_and_written_back(tmp_path, octo_golden):
    """Source: golden/octo, saved by the original code with orbax 0.4.4."""
    golden = read_checkpoint(octo_golden)
    assert golden.manifest is None and golden.step == 6
    assert golden.window == 2 and golden.image_sizes == {"image_primary": 128}
    tokens = golden.tokenizer(["insert the usb"])
    reference = golden_reference("octo")
    assert np.array_equal(tokens["input_ids"], reference["ids"][:1])
    assert np.array_equal(tokens["attention_mask"], reference["attention_mask"][:1])
    _, statistics = choose_statistics(octo_golden, None)
    assert np.allclose(statistics.need("mean"), 0.1) and np.allclose(statistics.need("q99"), 1.0)

    write_checkpoint(tmp_path / "copy", golden, (octo_golden / "dataset_statistics.json").read_bytes(), None)
    copy = read_checkpoint(tmp_path / "copy")
    assert same(golden.params, copy.params) and same(golden.example_batch, copy.example_batch)
    assert copy.config == golden.config and copy.module == golden.module and copy.step == 6
    assert copy.tokenizer.files == golden.tokenizer.files
    ours, theirs = ({p.name for p in path.iterdir()} for path in (tmp_path / "copy", octo_golden))
    assert ours == theirs
    assert {p.name for p in (tmp_path / "copy" / "6").iterdir()} == {"default", "weights.sha256"}
    ours, theirs = (path / "6" / "default" for path in (tmp_path / "copy", octo_golden))
    assert (ours / "checkpoint").read_bytes() == (theirs / "checkpoint").read_bytes()
    assert json.loads((ours / "_METADATA").read_text()) == json.loads((theirs / "_METADATA").read_text())


def test_random_checkpoints_depend_only_on_the_seed(written):
    read = read_checkpoint(written)
    assert same(read.params, random_checkpoint(SMALLEST, 3).params)
    assert not same(read.params, random_checkpoint(SMALLEST, 4).params)
    assert read.manifest == read_manifest(written) and read.manifest.statistics_key == "random"
    assert choose_statistics(written, read.manifest)[0] == "random"
    assert read.tokenizer(["insert the vga"])["input_ids"].shape == (1, 16)


def test_variant_removes_only_the_wrist_camera():
    upstream = random_checkpoint(SMALLEST.model_copy(update={"wrist": True}), 0)
    config, params = rldg_variant(upstream.config, upstream.params)
    assert list(config["model"]["observation_tokenizers"]) == ["primary"]
    assert list(upstream.config["model"]["observation_tokenizers"]) == ["primary", "wrist"]
    before, after = (flatten_dict(tree, sep="/") for tree in (upstream.params, params))
    assert set(after) == {name for name in before if "wrist" not in name} < set(before)
    assert all(after[name] is before[name] for name in after)
    assert set(after) == set(flatten_dict(random_checkpoint(SMALLEST, 0).params, sep="/"))
    del config["model"]["observation_tokenizers"]["primary"]
    with pytest.raises(UserError, match="no 'primary'"):
        rldg_variant(config, params)


def edit(path: Path, change) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def drop(name: str):
    def change(params):
        flat = flatten_dict(params, sep="/")
        del flat[name]
        return unflatten_dict(flat, sep="/")

    return change


def cut(params):
    kernel = params["heads_action"]["diffusion_model"]["time_preprocess"]["kernel"]
    params["heads_action"]["diffusion_model"]["time_preprocess"]["kernel"] = kernel[:3]
    return params


KERNEL = "octo_transformer/task_language_projection/kernel"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop(KERNEL), rf"/0/default: 8\d arrays, config.json describes 8\d: first missing: {KERNEL}"),
        (lambda params: {**params, "heads_value": {"bias": np.zeros(3)}}, "first unknown: heads_value/bias"),
        (cut, r"time_preprocess/kernel: float32 \(3, 1\), config.json describes float32 \(16, 1\)"),
    ],
)
def test_unsuitable_weights_are_refused(folder, change, reason):
    checkpoint = read_checkpoint(folder)
    statistics = (folder / "dataset_statistics.json").read_bytes()
    other = replace(checkpoint, params=change(checkpoint.params))
    write_checkpoint(folder, other, statistics, checkpoint.manifest)
    with pytest.raises(UserError, match=reason) as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)


def damage_weights(folder: Path) -> None:
    file = folder / "0" / "default" / "checkpoint"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def without_instruction(folder: Path) -> None:
    path = folder / "example_batch.msgpack"
    example = msgpack_restore(path.read_bytes())
    del example["task"]["language_instruction"]
    path.write_bytes(msgpack_serialize(example))


def longer_window(folder: Path) -> None:
    path = folder / "example_batch.msgpack"
    example = msgpack_restore(path.read_bytes())
    example["observation"]["timestep_pad_mask"] = np.ones((1, 11), bool)
    path.write_bytes(msgpack_serialize(example))


def bad_stem(config) -> None:
    stem = config["model"]["observation_tokenizers"]["primary"]["kwargs"]["encoder"]
    stem["kwargs"]["features"] = [32]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: cannot read"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json: Input should be"),
        (lambda f: edit(f / "config.json", lambda c: c.pop("text_processor")), "config.json: text_processor: Field"),
        (lambda f: edit(f / "config.json", bad_stem), "kernel_sizes, strides, features and padding must have the same"),
        (lambda f: (f / "example_batch.msgpack").unlink(), "example_batch.msgpack: cannot read"),
        (without_instruction, "example_batch.msgpack: not an example batch of Octo"),
        (longer_window, "example_batch.msgpack: does not fit config.json"),
        (lambda f: (f / "tiny-t5" / "tokenizer.json").unlink(), "tiny-t5/tokenizer.json: missing: put the tokenizer"),
        (lambda f: (f / "tiny-t5" / "tokenizer.json").write_text("{}"), "tokenizer.json: not a tokenizer: "),
        (lambda f: (f / "tiny-t5" / "config.json").unlink(), "tiny-t5/config.json: missing: put the configuration"),
        (lambda f: edit(f / "tiny-t5" / "config.json", lambda c: c.update(vocab_size=5)), "ids up to 2[0-9]"),
        (lambda f: shutil.rmtree(f / "0"), "no weights found, expected a folder <step>/default"),
        (damage_weights, "/0/default/.*: damaged or from another checkpoint"),
        (lambda f: (f / "0" / "default" / "checkpoint").unlink(), "default/checkpoint: missing, weights.sha256 lists"),
        (lambda f: edit(f / "rldg.json", lambda m: m.update(backend="openvla")), "a checkpoint of openvla, not of"),
    ],
)
def test_damaged_folder_is_refused(folder, damage, reason):
    damage(folder)
    with pytest.raises(UserError, match=reason) as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)


def outcome(path: Path) -> dict | str:
    try:
        return under_test._read_example(path)
    except UserError as error:
        return str(error)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_example_batch_is_read_or_refused(tmp_path_factory, written, data):
    original = (written / "example_batch.msgpack").read_bytes()
    position = data.draw(st.integers(0, min(len(original) - 1, 400)))
    damaged = bytearray(original)
    damaged[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("example") / "example_batch.msgpack"
    path.write_bytes(bytes(damaged[: data.draw(st.sampled_from([len(original), position]))]))
    found = outcome(path)
    assert isinstance(found, dict) or "\n" not in found


def test_tokenizer_is_found_in_the_hub_cache(folder, tmp_path, monkeypatch):
    """Upstream's checkpoints name `t5-base` without a tokenizer; the hub renamed it to google-t5/t5-base."""
    hub = tmp_path / "hub" / "models--google-t5--t5-base"
    (hub / "snapshots" / "abc").mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    shutil.move(folder / "tiny-t5" / "tokenizer.json", hub / "snapshots" / "abc" / "tokenizer.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    config = TextConfig(tokenizer_name="t5-base")
    assert find_tokenizer(folder, config)(["insert the usb"])["input_ids"].shape == (1, 64)
    assert find_t5(folder, "t5-base") == T5_BASE
    shutil.rmtree(hub)
    with pytest.raises(UserError, match=r"t5-base/tokenizer\.json: missing: put the tokenizer of t5-base there"):
        find_tokenizer(folder, config)


@pytest.mark.parametrize("name", ["../secret", "/etc", "a/../b", ""])
def test_model_names_outside_the_folder_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="is not the name of a model"):
        find_t5(tmp_path, name)


def test_manifest_states_the_step(folder):
    shutil.copytree(folder / "0", folder / "7")
    assert read_checkpoint(folder).step == 0
    (folder / "rldg.json").unlink()
    assert read_checkpoint(folder).step == 7


def test_failed_write_keeps_the_previous_folder(folder):
    checkpoint = read_checkpoint(folder)
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    with pytest.raises((TypeError, ValueError)):
        write_checkpoint(folder, replace(checkpoint, config={"model": object()}), b"{}", checkpoint.manifest)
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
