"""Frozen encoders: crops, determinism, weights, pretraining."""

from importlib import resources

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from rldg_core.errors import UserError
from rldg_rl.encoders import embedded
from rldg_rl.encoders.frozen import IMAGE_SIZE, PAD_PX, crops
from rldg_rl.encoders.loading import load_encoder


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


@given(st.integers(1, 6), st.integers(0, 2**62))
@settings(max_examples=20, deadline=None)
def test_crops_are_shifts_that_depend_on_the_stamp(count: int, stamp_ns: int) -> None:
    image = images(1)[0]
    found = crops(image, count, stamp_ns)
    assert np.array_equal(found[0], image)
    assert np.array_equal(found, crops(image, count, stamp_ns))
    padded = np.pad(image, ((PAD_PX, PAD_PX), (PAD_PX, PAD_PX), (0, 0)), mode="edge")
    shifts = range(2 * PAD_PX + 1)
    windows = {padded[y : y + IMAGE_SIZE, x : x + IMAGE_SIZE].tobytes() for y in shifts for x in shifts}
    assert all(crop.tobytes() in windows for crop in found)


@pytest.mark.parametrize("name", ["random_conv", "embedded"])
def test_features_of_an_image_are_independent_of_its_batch(name: str) -> None:
    encoder = load_encoder(name)
    batch = images(3)
    features = encoder.encode(batch)
    assert features.shape == (3, *encoder.feature_shape) and features.dtype == np.float16
    assert np.array_equal(features, encoder.encode(batch))
    alone = encoder.encode(batch[1:2])
    assert np.allclose(alone[0].astype(np.float32), features[1].astype(np.float32), atol=2e-3)
    assert not np.allclose(features[0], features[1], atol=1e-3)


def test_embedded_weights_are_small_and_have_a_hash() -> None:
    data = (resources.files("rldg_rl.encoders") / embedded.WEIGHTS).read_bytes()
    assert len(data) <= 2_000_000
    assert load_encoder("embedded").weights_sha256 == embedded.frozen_from(data, "x").weights_sha256


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"rubbish", "not valid safetensors"), (save({"a": np.zeros(3, np.float32)}), "not those of the embedded")],
)
def test_weights_of_another_encoder_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=f"here: .*{reason}"):
        embedded.frozen_from(data, "here")


def test_missing_or_unused_weights_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="encoder_weights"):
        load_encoder("resnet10")
    with pytest.raises(UserError, match="not used"):
        load_encoder("embedded", tmp_path / "w.safetensors")


def test_torch_and_jax_compute_the_same_features() -> None:
    import torch

    from rldg_rl.encoders import pretrain

    params = embedded.init(3)
    batch = images(2)
    in_torch = pretrain.forward(
        {name: torch.from_numpy(value) for name, value in params.items()}, torch.from_numpy(batch.astype(np.float32))
    )
    assert np.allclose(np.asarray(jax.jit(embedded.forward)(params, batch)), in_torch.numpy(), atol=1e-5)


def test_pretraining_lowers_the_pose_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on a spot whose place in the image is the pose: a few steps must be better than the mean of the poses."""
    from rldg_rl.encoders import pretrain

    monkeypatch.setattr(pretrain, "BATCH", 32)
    from rldg_rl.encoders.renders import POSES, Renders

    rng = np.random.default_rng(0)
    places = rng.uniform(-1, 1, (300, 2))
    drawn = np.full((300, IMAGE_SIZE, IMAGE_SIZE, 3), 90, np.uint8)
    for image, (y, x) in zip(drawn, places, strict=True):
        row, column = int(64 + 50 * y), int(64 + 50 * x)
        image[row - 6 : row + 6, column - 6 : column + 6] = 230
    poses = np.zeros((300, POSES), np.float32)
    poses[:, :2] = 0.05 * places
    data = Renders(drawn, poses)
    params = pretrain.train(data, steps=60, seed=0)
    features = np.asarray(jax.jit(embedded.forward)(params, drawn))
    known, fresh = Renders(drawn[:200], poses[:200]), Renders(drawn[200:], poses[200:])
    error = pretrain.readout_error(features[200:], fresh, features[:200], known)
    assert error["object_to_goal_mm"] < 15 < 1e3 * np.median(np.linalg.norm(poses[200:, :2], axis=1))
