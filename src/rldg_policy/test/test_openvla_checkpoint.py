"""OpenVLA's folders: round trips, upstream's are accepted, everything else is refused with one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from openvla_samples import copy_without, replace_file
from safetensors.torch import load_file, save, save_file

from rldg_core.errors import UserError
from rldg_policy.checkpoint.manifest import read_manifest
from rldg_policy.openvla.checkpoint import (
    read_checkpoint,
    read_decoding,
    read_model,
    read_shapes,
    write_random,
    write_tensors,
)
from rldg_policy.openvla.config import DecodingConfig, LanguageConfig, OpenVLAConfig

torch.set_num_threads(1)
SMALL = OpenVLAConfig.tiny().model_copy(
    update={
        "language": LanguageConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2
        )
    }
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("openvla") / "single"
    write_random(path, SMALL, seed=1)
    return path


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Write three shards with parallel decoding and an L1 head."""
    path = tmp_path_factory.mktemp("openvla") / "sharded"
    write_random(path, SMALL, 1, DecodingConfig(decoding="parallel", head="l1", horizon=4), shard_bytes=4_200_000)
    return path


def test_folder_has_the_layout_of_upstream(written):
    config = json.loads((written / "config.json").read_text())
    assert config["model_type"] == "openvla"
    assert config["text_config"]["torch_dtype"] == config["torch_dtype"] == "float32"
    assert set(config["norm_stats"]) == set(json.loads((written / "dataset_statistics.json").read_text())) == {"random"}
    preprocessor = json.loads((written / "preprocessor_config.json").read_text())
    assert preprocessor["image_resize_strategy"] == "resize-naive"
    assert read_manifest(written).statistics_key == "random"
    assert len(load_file(written / "model.safetensors")) == 159


def test_config_json_has_every_field_of_upstream(written, openvla_golden):
    ours, upstream = (json.loads((folder / "config.json").read_text()) for folder in (written, openvla_golden))
    assert set(upstream) - set(ours) == {"transformers_version"}
    differing = {key for key in upstream if key in ours and ours[key] != upstream[key]}
    assert differing == {"norm_stats", "text_config"}


def test_checkpoint_survives_a_round_trip(written):
    checkpoint = read_checkpoint(written)
    tensors = load_file(written / "model.safetensors")
    assert checkpoint.model.config == SMALL
    assert checkpoint.decoding == DecodingConfig()
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name


def test_shards_hold_the_same_weights_as_one_file(written, sharded):
    shards = sorted(path.name for path in sharded.glob("model-*"))
    assert shards == [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    one, many = load_file(written / "model.safetensors"), read_model(sharded).state_dict()
    assert index["metadata"]["total_size"] == sum(4 * t.numel() for t in one.values())
    assert set(index["weight_map"]) == set(one)
    assert all(torch.equal(many[name], tensor) for name, tensor in one.items())
    assert {name.split(".")[0] for name in set(many) - set(one)} == {"action_head"}
    assert read_checkpoint(sharded).decoding.horizon == 4


def test_random_weights_depend_only_on_the_seed(written, tmp_path):
    for seed, equal in ((1, True), (2, False)):
        write_random(tmp_path / str(seed), SMALL, seed)
        same = (tmp_path / str(seed) / "model.safetensors").read_bytes() == (written / "model.safetensors").read_bytes()
        assert same is equal


def test_golden_folder_is_read_unchanged(openvla_golden):
    model = read_model(openvla_golden)
    assert model.config == OpenVLAConfig.tiny()
    assert not model.training
    assert next(model.parameters()).device.type == "cpu"
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_bfloat16_keeps_the_rotary_frequencies_in_float32(written):
    model = read_model(written, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_fine_tuned_weights_of_upstream_use_the_centre_crop_and_pretrained_ones_do_not(written, tmp_path):
    folder = copy_without(written, tmp_path / "x", "rldg.json", "rldg_openvla.json")
    assert read_decoding(folder, "random") == DecodingConfig(centre_crop=False)
    assert read_decoding(folder, "my_dataset") == DecodingConfig(centre_crop=True)
    checkpoint = read_checkpoint(folder)
    assert checkpoint.manifest is None
    assert checkpoint.statistics_key == "random"


def edited(folder, name, **changes):
    values = json.loads((folder / name).read_text())
    replace_file(folder, name, json.dumps({**values, **changes}).encode())


def reweighted(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    replace_file(folder, "model.safetensors", save(tensors))


def drop_two(tensors):
    del tensors["projector.fc2.bias"], tensors["language_model.lm_head.weight"]


def add_one(tensors):
    tensors["projector.fc4.bias"] = torch.zeros(3)


def misshape(tensors):
    tensors["projector.fc2.bias"] = torch.zeros(3)


def other_patches(tensors):
    tensors["vision_backbone.featurizer.pos_embed"] = torch.zeros(1, 729, 64)


def eight_components(folder):
    entry = json.loads((folder / "dataset_statistics.json").read_text())["random"]
    entry["action"] = {k: [*v, v[-1]] for k, v in entry["action"].items()}
    (folder / "rldg.json").unlink()
    replace_file(folder, "dataset_statistics.json", json.dumps({"random": entry}).encode())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json: cannot read"),
        (lambda f: edited(f, "config.json", model_type="llava"), r"config\.json: model_type: expected"),
        (lambda f: edited(f, "config.json", image_sizes=[384, 384]), r"image_sizes: is \[384, 384\], .* \[224, 224\]"),
        (lambda f: edited(f, "config.json", vision_heads=[5, 4]), "vision_heads: 5 does not fit the tower of width 64"),
        (lambda f: edited(f, "config.json", text_config={"hidden_size": 0}), r"text_config: hidden_size: .*greater"),
        (
            lambda f: edited(f, "config.json", text_config={"hidden_size": 32}),
            r"279 of 438 tensors missing, first language",
        ),
        (lambda f: reweighted(f, drop_two), r"weights: 2 of 159 tensors missing, first projector\.fc2\.bias"),
        (lambda f: reweighted(f, add_one), r"weights: 1 tensors unexpected, first projector\.fc4\.bias"),
        (lambda f: reweighted(f, misshape), r"1 of 159 .* another shape, first projector\.fc2\.bias \(3,\), expected"),
        (lambda f: reweighted(f, other_patches), r"pos_embed: made for images of 378 px, this back-end supports 224"),
        (lambda f: replace_file(f, "model.safetensors", b"x" * 99), r"model\.safetensors: damaged"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors: missing"),
        (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json: missing"),
        (lambda f: (f / "dataset_statistics.json").unlink(), r"dataset_statistics\.json"),
        (eight_components, r"expected 7 booleans"),
        (lambda f: edited(f, "rldg.json", image_size=384), r"rldg\.json: image_size 384"),
        (lambda f: edited(f, "rldg.json", backend="octo"), r"rldg\.json: backend: a checkpoint of octo"),
        (lambda f: edited(f, "rldg.json", horizon=4), r"horizon 1 differs from 4"),
        (lambda f: edited(f, "rldg_openvla.json", horizon=4), r"rldg_openvla\.json: .*need decoding parallel"),
        (lambda f: edited(f, "rldg_openvla.json", decoding="parallel", head="l1"), r"action_head\.safetensors"),
    ],
)
def test_damaged_folder_is_refused(written, tmp_path, damage, message):
    folder = copy_without(written, tmp_path / "x")
    damage(folder)
    with pytest.raises(UserError, match=message) as raised:
        read_checkpoint(folder)
    assert "\n" not in str(raised.value)


def test_damaged_shards_are_refused(sharded, tmp_path):
    folder = copy_without(sharded, tmp_path / "a", "model-00002-of-00003.safetensors")
    with pytest.raises(UserError, match="model-00002-of-00003"):
        read_model(folder)
    folder = copy_without(sharded, tmp_path / "b")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    replace_file(folder, "model-00002-of-00003.safetensors", (tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"its tensors differ from those in model\.safetensors\.index\.json"):
        read_model(folder)
    folder = copy_without(sharded, tmp_path / "c")
    replace_file(folder, "model.safetensors.index.json", json.dumps({"weight_map": {"a": "../x"}}).encode())
    with pytest.raises(UserError, match="weight_map"):
        read_model(folder)


def test_other_weight_formats_are_refused_by_name(tmp_path):
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickle"):
        read_shapes(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="only LoRA adapters"):
        read_shapes(tmp_path)


def test_tensor_larger_than_a_shard_has_its_own_shard(tmp_path):
    tensors = {name: torch.full((size,), float(size)) for name, size in (("a", 10), ("b", 100), ("c", 10))}
    write_tensors(tmp_path, tensors.items(), shard_bytes=100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 3
    assert read_shapes(tmp_path) == {"a": (10,), "b": (100,), "c": (10,)}
    assert np.all([not path.name.startswith(".") for path in tmp_path.iterdir()])
