"""Upstream's example batch: what a checkpoint tells of its inputs, and what the parameters' shapes follow from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from rldg_policy.octo.config import HeadConfig
from rldg_policy.octo.model import OctoModule


def parameter_shapes(module: OctoModule, example_batch: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Path a/b/c -> shape and dtype of every parameter; computes nothing."""
    observations = example_batch["observation"]
    tree = jax.eval_shape(
        module.init, jax.random.PRNGKey(0), observations, example_batch["task"], observations["timestep_pad_mask"]
    )
    flat: dict[str, jax.ShapeDtypeStruct] = flatten_dict(tree["params"], sep="/")
    return flat


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
            "language_instruction": instruction,
            "pad_mask_dict": no_goal | {"language_instruction": np.ones(1, dtype=bool)},
        },
        "action": np.zeros(chunk, np.float32),
        "action_pad_mask": np.ones(chunk, dtype=bool),
    }


def image_sizes(observations: Mapping[str, Any]) -> dict[str, int]:
    """Image (image_primary ...) -> its side [px]."""
    return {key: int(value.shape[2]) for key, value in observations.items() if key.startswith("image_")}
