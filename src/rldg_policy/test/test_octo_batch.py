"""Batches of Octo's fine-tuning: upstream's form, normalised, in a resumable order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import octo_train_samples
import pytest
from octo_train_samples import CONFIG, SEED

from rldg_policy.octo.batch import BatchSource
from rldg_policy.training.dataset import open_training_set


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return octo_train_samples.dataset_with_validation(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def source(dataset):
    data = open_training_set(dataset)
    with ThreadPoolExecutor(2) as pool:
        yield BatchSource(data, CONFIG, 32, 4, lambda text: np.full((16, 16), len(text), np.float32), pool, SEED)


def test_batches_have_the_form_of_upstream(source):
    batch = next(source.training(0))
    observation, task = batch["observation"], batch["task"]
    assert observation["image_primary"].shape == (4, 2, 32, 32, 3) and observation["image_primary"].dtype == np.uint8
    assert set(task) == {"language_instruction", "pad_mask_dict"}, "there is no goal image"
    assert task["language_instruction"].shape == (4, 16, 16) and task["pad_mask_dict"]["language_instruction"].all()
    assert batch["action"].shape == batch["action_pad_mask"].shape == (4, 2, 4, 7)
    assert batch["action"].dtype == np.float32 and batch["action_pad_mask"].dtype == bool
    seen = observation["timestep_pad_mask"]
    assert seen[:, -1].all() and not batch["action_pad_mask"][~seen].any()
    template = octo_train_samples.random_batch(np.random.default_rng(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(lambda x: (x.shape, x.dtype), template)


def test_actions_are_normalised_except_the_gripper(source):
    batches = source.training(0)
    found = np.concatenate([next(batches)["action"][:, -1, 0] for _ in range(10)])
    assert np.allclose(found[:, :6].mean(0), 0, atol=0.5) and np.allclose(found[:, :6].std(0), 1, atol=0.4)
    assert not found[:, 6].any(), "raw"


def test_batches_resume_after_the_last_one(source):
    whole = source.training(0)
    skipped = [next(whole) for _ in range(3)][-1]
    again = next(source.training(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, skipped, again))


def test_only_training_images_are_augmented(source, dataset):
    plain = BatchSource(
        source.data, CONFIG.model_copy(update={"augment": False}), 32, 4, source.language, source.pool, 3
    )
    varied, same = next(source.training(0)), next(plain.training(0))
    assert np.array_equal(varied["action"], same["action"])
    assert not np.array_equal(varied["observation"]["image_primary"], same["observation"]["image_primary"])
    first, second = list(source.validation()), list(source.validation())
    assert len(first) == 2 and jax.tree.all(jax.tree.map(np.array_equal, first, second))


def test_small_validation_split_fills_one_batch(source):
    big = BatchSource(source.data, CONFIG.model_copy(update={"batch": 64}), 32, 4, source.language, source.pool, SEED)
    (batch,) = big.validation()
    images = batch["observation"]["image_primary"]
    assert len(images) == 64 and np.array_equal(images[0], images[40])
