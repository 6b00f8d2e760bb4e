"""Which parameters of Octo learn, and how: freeze patterns, schedule and optimiser (upstream: utils/train_utils.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from rldg_core.errors import UserError
from rldg_policy.octo.config import OctoTrainConfig

Flat = dict[str, Any]
"""Dotted parameter path -> array."""


def flatten(params: Mapping[str, Any]) -> Flat:
    """Nested parameters -> {dotted path: array}, in a fixed order."""
    flat: Flat = flatten_dict(params, sep=".")
    return dict(sorted(flat.items()))


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    nested: dict[str, Any] = unflatten_dict(dict(flat), sep=".")
    return nested


def partition(params: Mapping[str, Any], patterns: Sequence[str]) -> tuple[Flat, Flat]:
    """Split nested parameters into (learning, frozen) by fnmatch patterns over dotted paths.

    Gradients and moments exist for the learning ones only, which gives upstream's updates (the gradient's norm
    is clipped over the learning parameters there, too) in less memory.
    Raises UserError when nothing is left to learn.
    """
    flat = flatten(params)
    frozen = {path: value for path, value in flat.items() if any(fnmatchcase(path, p) for p in patterns)}
    learning = {path: value for path, value in flat.items() if path not in frozen}
    if not learning:
        raise UserError(f"frozen: the patterns {', '.join(patterns)} leave no parameter to learn")
    return learning, frozen


def count(flat: Mapping[str, Any]) -> int:
    """Number of values."""
    return sum(int(value.size) for value in flat.values())


def schedule(config: OctoTrainConfig) -> Callable[[Any], Any]:
    """Step (from 0) -> learning rate: linear from 0 over the warm-up, then half a cosine to 0 at `steps`."""
    rate: Callable[[Any], Any] = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.steps,
        end_value=0.0,
    )
    return rate


def optimiser(learning: Flat, config: OctoTrainConfig) -> optax.GradientTransformation:
    """Upstream's: clip by global norm, then AdamW with its first moment in bfloat16; only kernels decay."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config),
            weight_decay=config.weight_decay,
            mu_dtype=jnp.bfloat16,
            mask={path: "kernel" in path for path in learning},
        ),
    )
