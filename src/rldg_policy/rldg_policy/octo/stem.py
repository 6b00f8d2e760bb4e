"""Images to tokens: a small convolutional stem, and the tokenizer that stacks images on channels.

Source: octo-models/octo, octo/model/components/{vit_encoders,tokenizers}.py.
"""

# Modules of flax are untyped for mypy.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rldg_policy.octo.config import ImageTokenizerConfig, StemConfig

Inputs = dict[str, Any]


class TokenGroup(NamedTuple):
    """tokens (..., n, width); mask (..., n) bool, False where nothing may look."""

    tokens: jax.Array
    mask: jax.Array


class StandardisedConv(nn.Conv):
    """Convolution whose kernel has zero mean and unit deviation per output channel."""

    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **kwargs: Any) -> Any:
        """Standardise the kernel where it is read; the stored one stays as it is."""
        value = super().param(name, init_fn, *init_args, **kwargs)
        if name != "kernel":
            return value
        centred = value - jnp.mean(value, axis=(0, 1, 2))
        return centred / (jnp.std(centred, axis=(0, 1, 2)) + 1e-5)


class Stem(nn.Module):
    """(B, S, S, C) uint8 -> (B, S / 16, S / 16, num_features)."""

    config: StemConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        config = self.config
        x = images.astype(jnp.float32) / 127.5 - 1.0
        layers = zip(config.kernel_sizes, config.strides, config.features, config.padding, strict=True)
        for number, (kernel, stride, features, padding) in enumerate(layers):
            x = StandardisedConv(
                features,
                kernel_size=(kernel, kernel),
                strides=(stride, stride),
                padding=padding,
                name=f"StdConv_{number}",
            )(x)
            x = nn.relu(nn.GroupNorm(name=f"GroupNorm_{number}")(x))
        return nn.Conv(config.num_features, kernel_size=(1, 1), padding="VALID", name="embedding")(x)


class ImageTokenizer(nn.Module):
    """Images of an observation, with those of the goal on further channels, to tokens.

    A goal image that is missing counts as zeros. Without any image that its patterns name the tokenizer is left
    out (None). The mask comes from observations["pad_mask_dict"]; what has no entry there counts as seen.
    """

    config: ImageTokenizerConfig

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs) -> TokenGroup | None:
        """observations[key] (B, W, S, S, 3), tasks[key] (B, S, S, 3), uint8 -> tokens (B, W, n, features)."""
        keys = matching(self.config.obs_stack_keys, observations)
        if not keys:
            return None
        window = observations[keys[0]].shape[1]
        stack = [observations[key] for key in keys]
        for key in matching(self.config.task_stack_keys, {*observations, *tasks}):
            goal = tasks[key] if key in tasks else jnp.zeros_like(observations[key][:, 0])
            stack.append(jnp.repeat(goal[:, None], window, axis=1))
        images = jnp.concatenate(stack, axis=-1)
        flat = images.reshape(-1, *images.shape[2:])
        features = Stem(self.config.encoder, name="SmallStem16_0")(flat)
        tokens = features.reshape(*images.shape[:2], -1, features.shape[-1])
        return TokenGroup(tokens, seen(tokens, observations.get("pad_mask_dict", {}), keys))


def matching(patterns: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Sorted keys that begin with a match of one of the patterns."""
    return sorted(key for key in keys if any(re.match(pattern, key) for pattern in patterns))


def seen(tokens: jax.Array, pad_masks: Inputs, keys: Sequence[str]) -> jax.Array:
    """(..., n) bool: whether any of the inputs is there; all are where one is not mentioned."""
    if not all(key in pad_masks for key in keys):
        return jnp.ones(tokens.shape[:-1], dtype=bool)
    there = jnp.any(jnp.stack([pad_masks[key] for key in keys], axis=-1), axis=-1)
    return jnp.broadcast_to(there[..., None], tokens.shape[:-1])
