"""Tokens of task, observations and readouts through one block-wise causal transformer.

Order: [task], then per time step [images in the order of the configuration, task again, readouts].
Task tokens look at the task. Observation tokens look at the task and at observations of their own and earlier
steps. A readout looks at all of these and at itself; nothing looks at a readout.
Source: octo-models/octo, octo/model/octo_module.py and octo/model/components/{block_transformer,transformer}.py.
"""

# Modules of flax are untyped for mypy.
# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rldg_policy.octo.config import LanguageTokenizerConfig, ModelConfig, T5Config, TransformerConfig
from rldg_policy.octo.stem import ImageTokenizer, Inputs, TokenGroup, seen
from rldg_policy.octo.t5 import T5Encoder

LANGUAGE = "language_instruction"


class LanguageTokenizer(nn.Module):
    """Instruction to tokens: ids run through T5, embeddings (B, L, d_model) are taken as they are."""

    config: LanguageTokenizerConfig
    t5: T5Config

    def setup(self) -> None:
        """T5 under upstream's name."""
        self.hf_model = T5Encoder(self.t5)

    def __call__(self, tasks: Inputs) -> TokenGroup:
        """tasks[language_instruction]: {input_ids, attention_mask} (B, L), or what `encode` returns."""
        instruction = tasks[LANGUAGE]
        tokens = self.encode(**instruction) if isinstance(instruction, dict) else instruction
        if not self.config.finetune_encoder:
            tokens = jax.lax.stop_gradient(tokens)
        return TokenGroup(tokens, seen(tokens, tasks.get("pad_mask_dict", {}), [LANGUAGE]))

    def encode(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """(B, L) ids -> (B, L, d_model)."""
        return self.hf_model(input_ids, attention_mask)


class OctoTransformer(nn.Module):
    """Tokenizers, projections, position embeddings and the transformer."""

    config: ModelConfig
    t5: T5Config

    def setup(self) -> None:
        """Tokenizers under upstream's names."""
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
        """timestep_pad_mask (B, W) bool -> outputs by group: task_language (B, L, D), others (B, W, n, D)."""
        window = timestep_pad_mask.shape[1]
        task = self._embed("task_language", self.language(tasks))
        prefix = {"task_language": task}
        steps: dict[str, TokenGroup] = {}
        for name, tokenizer in self.images:
            if (group := tokenizer(observations, tasks)) is not None:
                tokens, mask = self._embed(f"obs_{name}", group)
                steps[f"obs_{name}"] = TokenGroup(tokens, timestep_pad_mask[:, :, None] & mask)
        if self.config.repeat_task_tokens:
            steps["obs_task_language"] = TokenGroup(*(jnp.repeat(part[:, None], window, axis=1) for part in task))
        for name, count in self.config.readouts.items():
            shape = (*timestep_pad_mask.shape, count, self.config.token_embedding_size)
            tokens = self._positions(f"readout_{name}", jnp.zeros(shape))
            steps[f"readout_{name}"] = TokenGroup(tokens, jnp.ones(shape[:-1], dtype=bool))
        return _BlockTransformer(self.config.transformer_kwargs, name="BlockTransformer_0")(prefix, steps, train)

    def encode_language(self, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        """(B, L) ids -> (B, L, d_model) that `tasks` may hold in place of the ids."""
        return self.language.encode(input_ids, attention_mask)

    def _embed(self, name: str, group: TokenGroup) -> TokenGroup:
        tokens = nn.Dense(self.config.token_embedding_size, name=f"{name}_projection")(group.tokens)
        return TokenGroup(self._positions(name, tokens), group.mask)

    def _positions(self, name: str, tokens: jax.Array) -> jax.Array:
        """Add the learned embedding of each position, and of each time step where there are steps."""
        steps = (self.config.max_horizon,) if tokens.ndim == 4 else ()
        shape = (1, *steps, *tokens.shape[-2:])
        embedding = self.param(f"{name}_pos_embedding", nn.initializers.normal(0.02), shape)
        return tokens + (embedding[:, : tokens.shape[1]] if steps else embedding)


class _BlockTransformer(nn.Module):
    """Groups of tokens to one sequence, through the encoder, and back."""

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
    """(T, T) bool: whether token i (row) may look at token j, by the rules of this module's docstring.

    prefix, steps: (name of the group, number of tokens) in the order of the sequence, `steps` once per time step.
    """
    groups = [(name, -1, count) for name, count in prefix]
    groups += [(name, step, count) for step in range(window) for name, count in steps]
    looks = np.array(
        [[other_at <= at and _may_look(name, other) for other, other_at, _ in groups] for name, at, _ in groups]
    )
    of_token = np.repeat(np.arange(len(groups)), [count for _, _, count in groups])
    return looks[np.ix_(of_token, of_token)]


def _may_look(name: str, other: str) -> bool:
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
