"""Configuration of Octo: its network, as in a checkpoint's config.json, and its training.

Upstream describes its network with nested import strings and arguments ({module, name, args, kwargs}). Each one that
Octo 1.5 uses has a model here and nothing is imported by name; others raise a UserError.
Source: octo-models/octo, octo/model/octo_module.py and octo/utils/spec.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rldg_core import configuration
from rldg_core.configuration import FrozenModel, NonNegative, NonNegativeCount, Positive
from rldg_policy.config_types import BatchSize, LearningRate, SaveEvery, Share, ShuffleBuffer, Steps
from rldg_policy.generalist import Option

Count = Annotated[int, Field(ge=1, le=100_000)]
"""Sizes of a network: bounded, because they decide how much memory is allocated."""
Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]

COMPONENTS = "octo.model.components"


def _arguments_of(module: str, name: str) -> BeforeValidator:
    """Extract the keyword arguments of an upstream specification of exactly this class."""

    def unwrap(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if (found := f"{value.get('module')}:{value.get('name')}") != f"{module}:{name}":
            raise ValueError(f"{found} is not supported, only {module}:{name}")
        if value.get("args"):
            raise ValueError(f"{name} takes keyword arguments only")
        return value.get("kwargs", {})

    return BeforeValidator(unwrap)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a pattern: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class StemConfig(FrozenModel):
    """Convolutional stem with one token per patch of 16 x 16 pixels."""

    patch_size: Literal[16] = 16
    kernel_sizes: Counts = (3, 3, 3, 3)
    strides: Counts = (2, 2, 2, 2)
    features: Counts = (32, 96, 192, 384)
    padding: tuple[Annotated[int, Field(ge=0, le=16)], ...] = (1, 1, 1, 1)
    num_features: Count = 512
    img_norm_type: Literal["default"] = "default"
    use_film: Literal[False] = False

    @model_validator(mode="after")
    def _one_of_each(self) -> StemConfig:
        if len({len(self.kernel_sizes), len(self.strides), len(self.features), len(self.padding)}) > 1:
            raise ValueError("kernel_sizes, strides, features and padding must have the same length")
        return self


class ImageTokenizerConfig(FrozenModel):
    """obs_stack_keys, task_stack_keys: patterns of the images that are concatenated on channels."""

    encoder: Annotated[StemConfig, _arguments_of(f"{COMPONENTS}.vit_encoders", "SmallStem16")]
    obs_stack_keys: tuple[Pattern, ...]
    task_stack_keys: tuple[Pattern, ...] = ()
    task_film_keys: Annotated[tuple[str, ...], Field(max_length=0)] = ()
    use_token_learner: Literal[False] = False
    num_tokens: Count = 8
    conditioning_type: Literal["none"] = "none"
    proper_pad_mask: Literal[True] = True


class LanguageTokenizerConfig(FrozenModel):
    """encoder: name of a T5, whose sizes are in `T5Config`."""

    encoder: str
    finetune_encoder: bool = False
    proper_pad_mask: Literal[True] = True


class HeadConfig(FrozenModel):
    """Diffusion head."""

    readout_key: str
    use_map: Literal[False] = False
    action_horizon: Count = 1
    action_dim: Count = 7
    max_action: Annotated[float, Field(gt=0, le=1e9)] = 5.0
    loss_type: Literal["mse"] = "mse"
    time_dim: Annotated[Count, Field(multiple_of=2)] = 32
    num_blocks: Count = 3
    dropout_rate: Share = 0.0
    hidden_dim: Count = 256
    use_layer_norm: bool = True
    diffusion_steps: Count = 20
    n_diffusion_samples: Count = 1


class TransformerConfig(FrozenModel):
    """Pre-norm encoder."""

    num_layers: Count
    mlp_dim: Count
    num_attention_heads: Count
    dropout_rate: Share = 0.1
    attention_dropout_rate: Share = 0.1
    add_position_embedding: Literal[False] = False


class _TaskTokenizers(FrozenModel):
    language: Annotated[LanguageTokenizerConfig, _arguments_of(f"{COMPONENTS}.tokenizers", "LanguageTokenizer")]


class _Heads(FrozenModel):
    action: Annotated[HeadConfig, _arguments_of(f"{COMPONENTS}.action_heads", "DiffusionActionHead")]


class ModelConfig(FrozenModel):
    """config.json's `model`. Octo 1.0 (without use_correct_attention) is refused."""

    observation_tokenizers: Annotated[
        dict[str, Annotated[ImageTokenizerConfig, _arguments_of(f"{COMPONENTS}.tokenizers", "ImageTokenizer")]],
        Field(min_length=1),
    ]
    task_tokenizers: _TaskTokenizers
    heads: _Heads
    readouts: Annotated[dict[str, Count], Field(min_length=1)]
    transformer_kwargs: TransformerConfig
    token_embedding_size: Count
    max_horizon: Count
    repeat_task_tokens: bool = False
    use_correct_attention: Literal[True]

    @model_validator(mode="after")
    def _reads_a_readout(self) -> ModelConfig:
        if (key := self.heads.action.readout_key) not in (known := [f"readout_{name}" for name in self.readouts]):
            raise ValueError(f"heads.action.readout_key is {key!r}, expected one of {', '.join(known)}")
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


class _TokenizerArguments(FrozenModel):
    max_length: Annotated[int, Field(ge=1, le=512)] = 64
    padding: Literal["max_length"] = "max_length"
    truncation: Literal[True] = True
    return_tensors: str = "np"


class TextConfig(FrozenModel):
    """config.json's `text_processor`."""

    tokenizer_name: str
    tokenizer_kwargs: _TokenizerArguments = _TokenizerArguments()
    encode_with_model: Literal[False] = False


class OctoConfig(BaseModel):
    """The parts of config.json that are used."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    model: ModelConfig
    text_processor: Annotated[TextConfig, _arguments_of("octo.data.utils.text_processing", "HFTokenizer")]


class T5Config(BaseModel):
    """Sizes of a T5 encoder, with the names of its config.json."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: Count
    d_model: Count
    d_ff: Count
    d_kv: Count
    num_heads: Count
    num_layers: Count
    relative_attention_num_buckets: Annotated[Count, Field(multiple_of=4)] = 32
    relative_attention_max_distance: Count = 128
    layer_norm_epsilon: Annotated[float, Field(gt=0, le=1e9)] = 1e-6
    feed_forward_proj: Literal["relu"] = "relu"


T5_BASE = T5Config(vocab_size=32128, d_model=768, d_ff=3072, d_kv=64, num_heads=12, num_layers=12)

Mode = Literal["full", "head_only", "head_mlp_only"]

FROZEN_PATTERNS: dict[Mode, tuple[str, ...]] = {
    "full": ("*hf_model*",),
    "head_only": ("octo_transformer.*",),
    "head_mlp_only": (
        "octo_transformer.*",
        "heads_*.map_head.probe",
        "heads_*.map_head.MultiHeadDotProductAttention_0.*",
    ),
}
"""Parameters frozen in each of upstream's modes; `full` freezes the language encoder, as in Octo 1.5's training."""


class OctoTrainConfig(FrozenModel):
    """Training: AdamW with linear warm-up to `learning_rate`, then cosine decay to zero at `steps`. Defaults are
    upstream's (scripts/configs/finetune_config.py) with RLDG's batch of 64.

    mode: which parameters are trained; frozen: further patterns (fnmatch over dotted parameter paths) of frozen
    parameters; window: observations per sample; augment: upstream's random crop and colours; shuffle_buffer: samples
    (JPEG) in memory; save_every: steps between saves, each a checkpoint, a training state and a validation;
    validation_batches: at most this many batches of the split `val`; workers: threads that decode and augment images.
    """

    mode: Annotated[Mode, Field(description="Which parameters are trained.")] = "full"
    frozen: Annotated[
        tuple[str, ...],
        Option("freeze"),
        Field(description="Further parameters to freeze: a pattern over dotted paths; may be repeated."),
    ] = ()
    steps: Steps = 50_000
    batch: BatchSize = 64
    window: Annotated[int, Field(ge=1, le=1000, description="Observations per sample.")] = 1
    learning_rate: LearningRate = 3e-4
    warmup_steps: Annotated[NonNegativeCount, Field(description="Steps until the peak learning rate.")] = 2000
    weight_decay: NonNegative = 0.01
    clip_norm: Positive = 1.0
    shuffle_buffer: ShuffleBuffer = 10_000
    save_every: SaveEvery = 5000
    validation_batches: NonNegativeCount = 16
    augment: bool = True
    workers: configuration.Count = 4

    @model_validator(mode="after")
    def _warm_up_ends(self) -> OctoTrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than steps ({self.steps})")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the frozen parameters."""
        return FROZEN_PATTERNS[self.mode] + self.frozen
