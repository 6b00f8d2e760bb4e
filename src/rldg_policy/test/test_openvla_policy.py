"""The back-end `openvla` behind the Policy interface."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from openvla_samples import copy_without, replace_file

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.registry import load_policy
from rldg_core.task import RatesConfig
from rldg_policy.checkpoint.statistics import choose_statistics, to_unit_actions
from rldg_policy.openvla.checkpoint import read_checkpoint, write_random
from rldg_policy.openvla.config import DecodingConfig, OpenVLAConfig
from rldg_policy.openvla.model import decode_ar
from rldg_policy.openvla.policy import OpenVLAPolicy
from rldg_policy.openvla.processing import inference_ids, pixel_values, serving_view

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write checkpoints of tiny random weights; return name -> folder."""
    root = tmp_path_factory.mktemp("openvla")
    kinds = {
        "ar": DecodingConfig(),
        "bins": DecodingConfig(decoding="parallel", horizon=4),
        "l1": DecodingConfig(decoding="parallel", head="l1", horizon=4),
    }
    for name, decoding in kinds.items():
        write_random(root / name, OpenVLAConfig.tiny(), 0, decoding)
    return {name: root / name for name in kinds}


@pytest.fixture
def seen(observe):
    """Return an observation whose image has content."""
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    return replace(observe(), images={"wrist": encode_jpeg(image)})


def test_back_end_is_registered_and_loaded(folders, task, seen):
    slow = task.model_copy(update={"rates": RatesConfig(control_hz=4)})
    policy = load_policy("p", "openvla", folders["ar"], False, slow)
    assert policy.spec.cameras == ("wrist",)
    assert (policy.spec.image_size, policy.spec.window, policy.spec.horizon) == (224, 1, 1)
    assert (policy.spec.rate_hz, policy.spec.statistics_key, policy.spec.version) == (4.0, "random", 0)
    policy.reset("insert the plug", 0)
    assert policy.act(seen).shape == (1, task.action.dim)


def test_action_equals_the_composition_of_its_parts(folders, task, seen):
    """Prompt, Lanczos and centre crop, greedy tokens, the checkpoint's statistics, the task's scale."""
    policy = OpenVLAPolicy(folders["ar"], task)
    policy.reset("Insert the Plug", 0)
    checkpoint = read_checkpoint(folders["ar"])
    ids = torch.from_numpy(inference_ids(checkpoint.tokenizer("insert the plug"))[None])
    pixels = pixel_values([serving_view(seen.images["wrist"], True)])
    _, statistics = choose_statistics(folders["ar"], checkpoint.manifest)
    physical = statistics.bounds_denormalise(decode_ar(checkpoint.model, ids, pixels, None))
    np.testing.assert_array_equal(policy.act(seen), to_unit_actions(physical, task, task.action.dim))
    assert np.all(np.abs(physical[0, :3]) <= 0.01)


def test_centre_crop_is_that_of_the_checkpoint(folders, task, seen, tmp_path):
    folder = copy_without(folders["l1"], tmp_path / "x")
    values = json.loads((folder / "rldg_openvla.json").read_text())
    replace_file(folder, "rldg_openvla.json", json.dumps({**values, "centre_crop": False}).encode())
    actions = []
    for path in (folders["l1"], folder):
        policy = OpenVLAPolicy(path, task)
        policy.reset("insert", 0)
        actions.append(policy.act(seen))
    assert not np.array_equal(*actions)


@pytest.mark.parametrize("kind", ["bins", "l1"])
def test_parallel_checkpoints_return_chunks(folders, task, seen, kind):
    policy = OpenVLAPolicy(folders[kind], task)
    policy.reset("insert", 0)
    chunk = policy.act(seen)
    assert chunk.shape == (4, task.action.dim) == (policy.spec.horizon, policy.spec.action_dim)
    np.testing.assert_array_equal(chunk, policy.act(seen))


def test_exploration_repeats_with_the_seed_and_greedy_ignores_it(folders, task, seen):
    drawn = {}
    for explore in (False, True):
        policy = OpenVLAPolicy(folders["bins"], task, explore)
        for episode, seed in enumerate((1, 1, 2)):
            policy.reset("insert", seed)
            drawn[explore, episode] = policy.act(seen)
    np.testing.assert_array_equal(drawn[True, 0], drawn[True, 1])
    assert not np.array_equal(drawn[True, 0], drawn[True, 2])
    np.testing.assert_array_equal(drawn[False, 0], drawn[False, 2])


def test_bad_input_is_refused(folders, task, seen, observe):
    policy = OpenVLAPolicy(folders["ar"], task)
    with pytest.raises(UserError, match="instruction: must not be empty"):
        policy.reset("", 0)
    policy.reset("insert", 0)
    with pytest.raises(ValueError, match="camera 'wrist'"):
        policy.act(replace(seen, images={}))
    with pytest.raises(UserError, match="path"):
        OpenVLAPolicy(None, task)
    small = task.model_copy(update={"action": task.action.model_copy(update={"scale_m": 0.005})})
    with pytest.raises(UserError, match=r"actions up to 0\.0100 m per step"):
        OpenVLAPolicy(folders["ar"], small)


def test_checkpoint_of_another_task_is_refused(folders, task, tmp_path):
    folder = copy_without(folders["ar"], tmp_path / "x")
    values = json.loads((folder / "rldg.json").read_text())
    replace_file(folder, "rldg.json", json.dumps({**values, "tasks": ["assembly"]}).encode())
    with pytest.raises(UserError, match="assembly"):
        OpenVLAPolicy(folder, task)


def test_close_frees_every_tensor(folders, task):
    policy = OpenVLAPolicy(folders["l1"], task)
    policy.warm_up()
    model = policy._checkpoint.model
    tensors = [weakref.ref(p) for p in model.parameters()]
    del model
    policy.close()
    gc.collect()
    assert not any(ref() is not None for ref in tensors)
    with pytest.raises(UserError, match="closed"):
        policy.reset("insert", 0)
