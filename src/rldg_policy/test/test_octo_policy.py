"""The back-end octo behind the Policy interface: window, seeds, instruction, cameras, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from octo_samples import SMALLEST

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.policy_checks import check_chunk, check_spec
from rldg_core.task import load_task
from rldg_core.types import Observation
from rldg_policy.checkpoint.manifest import read_manifest, write_manifest
from rldg_policy.octo.checkpoint import random_checkpoint, write_checkpoint, write_random
from rldg_policy.octo.model import diffusion_loss, sample_actions
from rldg_policy.octo.policy import OctoPolicy, _cameras
from rldg_policy.octo.train import rldg_variant

pytestmark = pytest.mark.timeout(300)  # XLA compiles for half a minute, longer on a busy machine

TASK_FILE = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks" / "insertion.yaml"
USB, VGA = "insert the usb connector", "insert the vga connector"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("octo") / "random"
    write_random(path, SMALLEST, 0)
    return path


@pytest.fixture(scope="module")
def policy(folder):
    loaded = OctoPolicy(folder, load_task(TASK_FILE))
    loaded.warm_up()
    yield loaded
    loaded.close()


def see(number: int, size: int = 32) -> Observation:
    """Return an observation with wrist image number `number`."""
    coarse = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    image = encode_jpeg(np.kron(coarse, np.ones((size // 4, size // 4, 1), np.uint8)))
    zeros = np.zeros(7)
    return Observation(number, {"wrist": image}, zeros, zeros[:6], zeros[:6], zeros, 0.02)


def run(policy: OctoPolicy, numbers=(1, 2), seed: int = 5, instruction: str = USB) -> np.ndarray:
    policy.reset(instruction, seed)
    return np.array([policy.act(see(number)) for number in numbers])


def test_policy_satisfies_its_specification_and_returns_chunks(policy, task):
    check_spec("octo", policy.spec, task)
    assert policy.spec.cameras == ("wrist",) and policy.spec.horizon == 4 and policy.spec.rate_hz == 10.0
    assert policy.spec.window == 2 and policy.spec.image_size == 32 and policy.spec.statistics_key == "random"
    for chunk in run(policy):
        assert check_chunk(chunk, policy.spec).shape == (4, 6)


def test_same_seed_repeats_and_others_differ(policy, folder, task):
    chunks = run(policy)
    assert np.array_equal(chunks, run(policy))
    policy.warm_up()
    assert np.array_equal(chunks, run(policy))
    assert not np.array_equal(chunks, run(policy, seed=6))
    assert not np.array_equal(chunks, run(policy, instruction=VGA))
    other = OctoPolicy(folder, task)
    assert np.array_equal(chunks, run(other))
    other.close()


def test_explore_draws_new_noise_for_every_inference(policy, folder, task):
    fixed, (_, *again) = run(policy, [1, 1, 1]), run(policy, [1, 1, 1, 1])
    assert np.array_equal(fixed[1], fixed[2]) and np.array_equal(fixed[1:], again[:2])
    exploring = OctoPolicy(folder, task, explore=True)
    chunks = run(exploring, [1, 1, 1])
    assert not np.array_equal(chunks[1], chunks[2])
    assert np.array_equal(chunks, run(exploring, [1, 1, 1]))
    exploring.close()


def test_earlier_observations_count_until_reset(policy):
    alone = run(policy, [2])[0]
    after_one = run(policy, [1, 2])[1]
    assert not np.array_equal(alone, after_one)
    policy.reset(USB, 5)
    policy.remember(see(3))
    policy.remember(see(1))
    assert np.array_equal(policy.act(see(2)), after_one)  # the window is two


def test_larger_images_are_resized(policy):
    policy.reset(USB, 0)
    assert policy.act(see(1, size=64)).shape == (4, 6)


def test_bad_input_during_an_episode_is_refused(policy, folder, task):
    with pytest.raises(UserError, match="instruction: must not be empty"):
        policy.reset(" ", 0)
    policy.reset(USB, 0)
    with pytest.raises(ValueError, match="no image of camera 'wrist'"):
        policy.act(replace(see(1), images={}))
    with pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        policy.act(replace(see(1), images={"wrist": b"x"}))
    fresh = OctoPolicy(folder, task)
    with pytest.raises(ValueError, match="call reset first"):
        fresh.act(see(1))
    fresh.close()


def test_close_frees_the_weights(folder, task):
    before = len(jax.live_arrays())
    loaded = OctoPolicy(folder, task)
    run(loaded)
    assert len(jax.live_arrays()) > before + 50
    loaded.close()
    loaded.close()
    assert len(jax.live_arrays()) == before


def manifest_with(folder: Path, **changes) -> None:
    write_manifest(folder, read_manifest(folder).model_copy(update=changes))


def rewrite_statistics(folder: Path, change) -> None:
    """Change the statistics of a folder without manifest."""
    (folder / "rldg.json").unlink()
    path = folder / "dataset_statistics.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "dataset_statistics.json").unlink(), r"dataset_statistics.json"),
        (lambda f: rewrite_statistics(f, lambda s: s.update(other=s["random"])), "statistics of 2 datasets"),
        (lambda f: rewrite_statistics(f, lambda s: s["random"]["action"].pop("std")), "no std among"),
        (
            lambda f: rewrite_statistics(f, lambda s: s["random"]["action"].update(p99=[1.0] * 7, max=[1.0] * 7)),
            "up to 1.0000 m",
        ),
        (lambda f: (f / "dataset_statistics.json").open("a").write(" "), "its sha256 differs"),
        (lambda f: manifest_with(f, tasks=("pick",)), "made for task 'pick', this stack runs 'insertion'"),
        (lambda f: manifest_with(f, image_size=256), "rldg.json: image_size 256, the checkpoint has 32"),
        (lambda f: manifest_with(f, horizon=8), "rldg.json: horizon 8, the checkpoint has 4"),
        (lambda f: manifest_with(f, window=3), "rldg.json: window 3, the checkpoint was trained with 2"),
    ],
)
def test_unsuitable_checkpoint_is_refused(folder, tmp_path, task, damage, reason):
    copy = Path(shutil.copytree(folder, tmp_path / "octo"))
    damage(copy)
    with pytest.raises(UserError, match=reason) as error:
        OctoPolicy(copy, task)
    assert "\n" not in str(error.value)


def test_other_action_dimensions_are_refused(tmp_path, task):
    write_random(tmp_path / "octo", SMALLEST.model_copy(update={"action_dim": 8}), 0)
    with pytest.raises(UserError, match="its actions have 8 components, expected 7"):
        OctoPolicy(tmp_path / "octo", task)
    with pytest.raises(UserError, match="expected a checkpoint folder"):
        OctoPolicy(None, task)


def test_actions_of_another_scale_are_refused(task, octo_golden):
    """The golden checkpoint's statistics range from -1 to 1, which would mean metres."""
    with pytest.raises(UserError, match=r"made for actions up to 1\.0000 m per step"):
        OctoPolicy(octo_golden, task)


def test_cameras_are_assigned_to_the_inputs(task):
    both = random_checkpoint(SMALLEST.model_copy(update={"wrist": True}), 0)
    two = task.model_copy(update={"cameras": {"wrist": task.cameras["wrist"], "primary": task.cameras["wrist"]}})
    assert _cameras(both, task) == {"image_primary": "wrist"}
    assert _cameras(both, two) == {"image_primary": "primary", "image_wrist": "wrist"}
    assert _cameras(random_checkpoint(SMALLEST, 0), two) == {"image_primary": "primary"}


def batch(window: int = 2) -> dict:
    rng = np.random.default_rng(0)
    seen = np.array([[False, True]])[:, -window:]
    return {
        "observation": {
            "image_primary": rng.integers(0, 255, (1, window, 32, 32, 3), dtype=np.uint8),
            "timestep_pad_mask": seen,
            "pad_mask_dict": {"image_primary": np.ones_like(seen)},
        },
        "task": {"language_instruction": rng.normal(size=(1, 16, 32)).astype(np.float32)},
        "action": rng.normal(size=(1, window, 4, 7)).astype(np.float32),
        "action_pad_mask": np.ones((1, window, 4, 7), bool),
    }


def test_upstream_without_wrist_image_equals_the_variant():
    """Upstream omits a tokenizer when its images are missing, so fine-tuning starts at the same function."""
    original, variant = (random_checkpoint(size, 0) for size in (SMALLEST.model_copy(update={"wrist": True}), SMALLEST))
    config, params = rldg_variant(original.config, original.params)
    assert config["model"] == variant.config["model"]
    inputs = (params, batch()["observation"], batch()["task"], np.ones((1, 2), bool), np.zeros(2, np.uint32))
    one, other = (
        jax.make_jaxpr(sample_actions, static_argnums=0)(checkpoint.module, *inputs)
        for checkpoint in (original, variant)
    )
    assert str(one) == str(other)


def test_padding_steps_do_not_change_the_loss():
    """A step before the episode's start affects neither attention nor loss."""
    loaded = random_checkpoint(SMALLEST, 0)
    loss = jax.jit(lambda batch: diffusion_loss(loaded.module, loaded.params, batch, jax.random.PRNGKey(0)))
    data, other = batch(), batch()
    other["observation"]["image_primary"][:, 0] = 0
    other["action"][:, 0] = 2.0
    value = float(loss(data))
    assert 0.0 < value < 100.0 and float(loss(other)) == pytest.approx(value, rel=1e-5)
    data["action_pad_mask"][:, :, 3] = False
    assert float(loss(data)) != pytest.approx(value, rel=1e-3)
    other["observation"]["image_primary"][:, 1] = 0
    assert float(loss(other)) != pytest.approx(value, rel=1e-3)


def test_rewritten_folder_keeps_version_and_actions(folder, tmp_path, task):
    """Version and key come from the manifest, and writing a folder again changes no action."""
    loaded = random_checkpoint(SMALLEST, 0)
    manifest = read_manifest(folder).model_copy(update={"version": 12})
    statistics = (folder / "dataset_statistics.json").read_bytes()
    write_checkpoint(tmp_path / "again", loaded, statistics, manifest)
    again, first = OctoPolicy(tmp_path / "again", task), OctoPolicy(folder, task)
    assert again.spec == replace(first.spec, version=12)
    assert np.array_equal(run(again), run(first))
    again.close()
    first.close()
