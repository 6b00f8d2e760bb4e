"""Octo's transformer: tokenizers of images and language, and a block-wise causal transformer over all tokens.

Sequence: [task], then per time step [images in the order of the configuration, task again, readouts]. Task tokens
attend to the task. Observation tokens attend to the task and to observations of the same and earlier steps. A readout
attends to all of these and to itself; nothing attends to a readout.
Source: octo-models/octo, octo/model/octo_module.py and octo/model/components/{block_transformer,transformer,
vit_encoders,tokenizers}.py.
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
import numpy as np
from numpy.typing import NDArray

from rldg_policy.octo.config import (
    ImageTokenizerConfig,
    LanguageTokenizerConfig,
    ModelConfig,
    StemConfig,
    T5Config,
    TransformerConfig,
)
from rldg_policy.octo.t5 import T5Encoder

Inputs = dict[str, Any]


class TokenGroup(NamedTuple):
    """tokens (..., n, width); mask (..., n) bool, False for tokens that are not attended to."""

    tokens: jax.Array
    mask: jax.Array


class StandardisedConv(nn.Conv):
    """Convolution with its kernel standardised to zero mean and unit deviation per output channel."""

    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **kwargs: Any) -> Any:
        """Standardise the kernel when it is read; the stored parameter is unchanged."""
        value = super().param(name, init_fn, *init_args, **kwargs)
        if name != "kernel":
            return value
        centred = value - jnp.mean(value, axis=(0, 1, 2))
        return centred / (jnp.std(centred, axis=(0, 1, 2)) + 1e-5)


class Stem(nn.Module):
    """Maps (B, S, S, C) uint8 to (B, S / 16, S / 16, num_features)."""

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
    """Tokenizes the images of an observation, concatenated on channels with those of the goal.

    A missing goal image is zeros. Without any image that matches its patterns, the tokenizer returns None. The mask
    comes from observations["pad_mask_dict"]; images without an entry are not masked.
    """

    config: ImageTokenizerConfig

    @nn.compact
    def __call__(self, observations: Inputs, tasks: Inputs) -> TokenGroup | None:
        """Tokenize observations[key] (B, W, S, S, 3) and tasks[key] (B, S, S, 3), uint8, to (B, W, n, features)."""
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
        return TokenGroup(tokens, pad_mask(tokens, observations.get("pad_mask_dict", {}), keys))


def matching(patterns: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Return the sorted keys that match one of the patterns at their start."""
    return sorted(key for key in keys if any(re.match(pattern, key) for pattern in patterns))


def pad_mask(tokens: jax.Array, pad_masks: Inputs, keys: Sequence[str]) -> jax.Array:
    """Return the mask (..., n) bool: True if any input is present, or if one has no entry in `pad_masks`."""
    if not all(key in pad_masks for key in keys):
        return jnp.ones(tokens.shape[:-1], dtype=bool)
    present = jnp.any(jnp.stack([pad_masks[key] for key in keys], axis=-1), axis=-1)
    return jnp.broadcast_to(present[..., None], tokens.shape[:-1])


LANGUAGE = "language_instruction"


class LanguageTokenizer(nn.Module):
    """Tokenizes an instruction: ids are encoded by T5, embeddings (B, L, d_model) are used directly."""

    config: LanguageTokenizerConfig
    t5: T5Config

    def setup(self) -> None:
        """Create T5 with upstream's name."""
        self.hf_model = T5Encoder(self.t5)

    def __call__(self, tasks: Inputs) -> TokenGroup:
        """Tokenize tasks[language_instruction]: {input_ids, attention_mask} (B, L), or the result of `encode`."""
        instruction = tasks[LANGUAGE]
        tokens = self.encode(**instruction) if isinstance(instruction, dict) else instruction
        if not self.config.finetune_encoder:
            tokens = jax.lax.stop_gradient(tokens)
        return TokenGroup(tokens, pad_mask(tokens, tasks.get("pad_mask_dict", {}), [LANGUAGE]))

    def encode(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Encode ids (B, L) to (B, L, d_model)."""
        return self.hf_model(input_ids, attention_mask)


class OctoTransformer(nn.Module):
    """Tokenizers, projections, position embeddings and the transformer."""

    config: ModelConfig
    t5: T5Config

    def setup(self) -> None:
        """Create tokenizers with upstream's names."""
        config = self.config
        self.language = LanguageTokenizer(config.task_tokenizers.language, self.t5, name="task_tokenizers_language")
        self.images = [
            (name, ImageTokenizer(tokenizer, name=f"observation_tokenizers_{name}"))
            for name, tokenizer in config.observation_tokenizers.items()
        ]

    @nn.compact
    def __call__(
        self, observations: Inputs, tasks: Inputs, timestep_pad_mask: jax.Array, train: bool
    ) -> dict[str, TokenGroup]:
        """Return the outputs by group: task_language (B, L, D), others (B, W, n, D). timestep_pad_mask (B, W) bool."""
        window = timestep_pad_mask.shape[1]
        task = self._project("task_language", self.language(tasks))
        prefix = {"task_language": task}
        steps: dict[str, TokenGroup] = {}
        for name, tokenizer in self.images:
            if (group := tokenizer(observations, tasks)) is not None:
                tokens, mask = self._project(f"obs_{name}", group)
                steps[f"obs_{name}"] = TokenGroup(tokens, timestep_pad_mask[:, :, None] & mask)
        if self.config.repeat_task_tokens:
            steps["obs_task_language"] = TokenGroup(*(jnp.repeat(part[:, None], window, axis=1) for part in task))
        for name, count in self.config.readouts.items():
            shape = (*timestep_pad_mask.shape, count, self.config.token_embedding_size)
            tokens = self._add_positions(f"readout_{name}", jnp.zeros(shape))
            steps[f"readout_{name}"] = TokenGroup(tokens, jnp.ones(shape[:-1], dtype=bool))
        return _BlockTransformer(self.config.transformer_kwargs, name="BlockTransformer_0")(prefix, steps, train)

    def encode_language(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """Encode ids (B, L) to embeddings (B, L, d_model), which `tasks` may hold instead of ids."""
        return self.language.encode(input_ids, attention_mask)

    def _project(self, name: str, group: TokenGroup) -> TokenGroup:
        tokens = nn.Dense(self.config.token_embedding_size, name=f"{name}_projection")(group.tokens)
        return TokenGroup(self._add_positions(name, tokens), group.mask)

    def _add_positions(self, name: str, tokens: jax.Array) -> jax.Array:
        """Add the learned embedding of each position and, if there are time steps, of each step."""
        steps = (self.config.max_horizon,) if tokens.ndim == 4 else ()
        shape = (1, *steps, *tokens.shape[-2:])
        embedding = self.param(f"{name}_pos_embedding", nn.initializers.normal(0.02), shape)
        return tokens + (embedding[:, : tokens.shape[1]] if steps else embedding)


class _BlockTransformer(nn.Module):
    """Concatenates token groups to one sequence, applies the encoder, and splits the result."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, prefix: dict[str, TokenGroup], steps: dict[str, TokenGroup], train: bool
    ) -> dict[str, TokenGroup]:
        sequence = [jnp.concatenate([group.tokens for group in prefix.values()], axis=1)]
        masks = [jnp.concatenate([group.mask for group in prefix.values()], axis=1)]
        tokens = jnp.concatenate([group.tokens for group in steps.values()], axis=2)
        mask = jnp.concatenate([group.mask for group in steps.values()], axis=2)
        batch, window, per_step, width = tokens.shape
        sequence.append(tokens.reshape(batch, window * per_step, width))
        masks.append(mask.reshape(batch, window * per_step))

        structure = attention_structure(
            [(name, group.tokens.shape[1]) for name, group in prefix.items()],
            [(name, group.tokens.shape[2]) for name, group in steps.items()],
            window,
        )
        visible = jnp.concatenate(masks, axis=1)[:, None, None, :] & jnp.asarray(structure)
        x = _Encoder(self.config, name="Transformer_0")(jnp.concatenate(sequence, axis=1), visible, train)

        before = sequence[0].shape[1]
        by_step = x[:, before:].reshape(batch, window, per_step, width)
        return _split(x[:, :before], prefix, 1) | _split(by_step, steps, 2)


def _split(tokens: jax.Array, groups: dict[str, TokenGroup], axis: int) -> dict[str, TokenGroup]:
    ends = np.cumsum([group.tokens.shape[axis] for group in groups.values()])[:-1]
    parts = jnp.split(tokens, ends, axis=axis)
    return {name: TokenGroup(part, group.mask) for (name, group), part in zip(groups.items(), parts, strict=True)}


def attention_structure(
    prefix: Sequence[tuple[str, int]], steps: Sequence[tuple[str, int]], window: int
) -> NDArray[np.bool_]:
    """Return (T, T) bool: whether token i (row) attends to token j, by the rules in this module's docstring.

    prefix, steps: (name of the group, number of tokens) in the order of the sequence, `steps` once per time step.
    """
    groups = [(name, -1, count) for name, count in prefix]
    groups += [(name, step, count) for step in range(window) for name, count in steps]
    attends = np.array(
        [[other_at <= at and _attends_to(name, other) for other, other_at, _ in groups] for name, at, _ in groups]
    )
    of_token = np.repeat(np.arange(len(groups)), [count for _, _, count in groups])
    return attends[np.ix_(of_token, of_token)]


def _attends_to(name: str, other: str) -> bool:
    if other.startswith("task_"):
        return True
    if name.startswith("task_"):
        return False
    return other.startswith("obs_") or other == name


class _Encoder(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array, train: bool) -> jax.Array:
        for number in range(self.config.num_layers):
            x = _EncoderBlock(self.config, name=f"encoderblock_{number}")(x, visible, train)
        return nn.LayerNorm(name="encoder_norm")(x)


class _EncoderBlock(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array, visible: jax.Array, train: bool) -> jax.Array:
        config = self.config
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=config.num_attention_heads,
            kernel_init=nn.initializers.xavier_uniform(),
            broadcast_dropout=False,
            dropout_rate=config.attention_dropout_rate,
            deterministic=not train,
            name="MultiHeadDotProductAttention_0",
        )(y, mask=visible)
        x = x + nn.Dropout(config.dropout_rate, deterministic=not train)(y)
        y = nn.LayerNorm(name="LayerNorm_1")(x)
        y = _FeedForward(config.mlp_dim, config.dropout_rate, name="MlpBlock_0")(y, train)
        return x + y


class _FeedForward(nn.Module):
    hidden: int
    dropout_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        inits = {"kernel_init": nn.initializers.xavier_uniform(), "bias_init": nn.initializers.normal(1e-6)}
        y = nn.gelu(nn.Dense(self.hidden, **inits, name="Dense_0")(x))
        y = nn.Dropout(self.dropout_rate, deterministic=not train)(y)
        y = nn.Dense(x.shape[-1], **inits, name="Dense_1")(y)
        return nn.Dropout(self.dropout_rate, deterministic=not train)(y)
