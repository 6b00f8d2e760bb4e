"""Upstream's example batch: what a checkpoint tells of its inputs, and what the parameters' shapes follow from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from numpy.typing import DTypeLike

from rldg_policy.octo.config import HeadConfig
from rldg_policy.octo.model import OctoModule
from rldg_policy.octo.transformer import LANGUAGE


def parameter_shapes(module: OctoModule, example_batch: Mapping[str, Any]) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Path a/b/c -> shape and dtype of every parameter; computes nothing."""
    observations, instruction = example_batch["observation"], example_batch["task"][LANGUAGE]
    sizes = tuple(image_sizes(observations).items())
    return _shapes(module, sizes, observations["timestep_pad_mask"].shape[1], instruction["input_ids"].shape[1])


@lru_cache(maxsize=8)
def _shapes(
    module: OctoModule, sizes: tuple[tuple[str, int], ...], window: int, length: int
) -> Mapping[str, jax.ShapeDtypeStruct]:
    images = {key: _like((1, window, size, size, 3), np.uint8) for key, size in sizes}
    ids = _like((1, length), np.int32)
    tasks = {LANGUAGE: {"input_ids": ids, "attention_mask": ids}}
    tree = jax.eval_shape(module.init, jax.random.PRNGKey(0), images, tasks, _like((1, window), np.bool_))
    return MappingProxyType(flatten_dict(tree["params"], sep="/"))


def _like(shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def make_example_batch(sizes: Mapping[str, int], window: int, head: HeadConfig, text_length: int) -> dict[str, Any]:
    """Upstream's example_batch: one sample of zeros. sizes: image_primary ... -> side [px]."""
    seen = np.ones((1, window), dtype=bool)
    chunk = (1, window, head.action_horizon, head.action_dim)
    images = {key: np.zeros((1, window, size, size, 3), np.uint8) for key, size in sizes.items()}
    goals = {key: image[:, 0] for key, image in images.items()}
    instruction = {name: np.zeros((1, text_length), np.int32) for name in ("input_ids", "attention_mask")}
    no_goal = {key: np.zeros(1, dtype=bool) for key in goals}
    return {
        "observation": images | {"timestep_pad_mask": seen, "pad_mask_dict": dict.fromkeys(images, seen)},
        "task": goals
        | {
            LANGUAGE: instruction,
            "pad_mask_dict": no_goal | {LANGUAGE: np.ones(1, dtype=bool)},
        },
        "action": np.zeros(chunk, np.float32),
        "action_pad_mask": np.ones(chunk, dtype=bool),
    }


def image_sizes(observations: Mapping[str, Any]) -> dict[str, int]:
    """Image (image_primary ...) -> its side [px]."""
    return {key: int(value.shape[2]) for key, value in observations.items() if key.startswith("image_")}
