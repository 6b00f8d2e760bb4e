"""Configuration of OpenVLA: its architecture, read from config.json and the shapes of the weights, and its training.

Upstream's config.json names its vision towers (timm's identifiers) without their sizes, and leaves out whatever of
the language model equals transformers' defaults, which are those of Llama-2-7B.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from rldg_core.configuration import Count, FrozenModel, NonNegative, NonNegativeCount, Positive, validated
from rldg_core.errors import UserError
from rldg_policy.action_bins import BINS
from rldg_policy.config_types import BatchSize, LearningRate, SaveEvery, ShuffleBuffer, Steps

Shapes = Mapping[str, tuple[int, ...]]

ACTION_DIM = 7
IMAGE_SIZE = 224
PATCH = 14
PATCHES = (IMAGE_SIZE // PATCH) ** 2
"""Number of image tokens, which are inserted after <s>."""
BACKBONE_ID = "dinosiglip-vit-so-224px"
TIMM_IDS = ("vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224")
HEADS_OF_WIDTH = {1024: 16, 1152: 16, 64: 4, 48: 4}
"""The number of heads cannot be read from the shapes: timm's two towers, and those of the golden reference."""
DECODING_FILE = "rldg_openvla.json"
INFERENCE_HZ = 4.0
"""Inferences per second in the paper's deployment; the control rate is that of the training data."""


class _UpstreamModel(BaseModel):
    """Part of an upstream configuration: keys that are not read are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class TowerConfig(_UpstreamModel):
    """A vision transformer. registers: DINOv2's; 0 is SigLIP (no class token, no layer scale, attention pooling)."""

    width: Count
    depth: Annotated[int, Field(ge=2, le=1_000_000_000)]
    heads: Count
    mlp_width: Count
    registers: NonNegativeCount


class LanguageConfig(_UpstreamModel):
    """Llama, with the names of config.json's `text_config` and the defaults of transformers."""

    vocab_size: Count = 32064
    hidden_size: Count = 4096
    intermediate_size: Count = 11008
    num_hidden_layers: Count = 32
    num_attention_heads: Count = 32
    num_key_value_heads: Count | None = None
    max_position_embeddings: Count = 2048
    rms_norm_eps: Annotated[float, Field(gt=0, le=1e9)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0, le=1e9)] = 10000.0
    rope_scaling: None = None
    tie_word_embeddings: Literal[False] = False


class OpenVLAConfig(_UpstreamModel):
    """dino, siglip: the vision towers; language: the language model."""

    dino: TowerConfig
    siglip: TowerConfig
    language: LanguageConfig

    @classmethod
    def seven_b(cls) -> OpenVLAConfig:
        """Return the architecture of openvla-7b: 7,541,237,184 parameters in 982 tensors."""
        dino = TowerConfig(width=1024, depth=24, heads=16, mlp_width=4096, registers=4)
        siglip = TowerConfig(width=1152, depth=27, heads=16, mlp_width=4304, registers=0)
        return cls(dino=dino, siglip=siglip, language=LanguageConfig())

    @classmethod
    def tiny(cls) -> OpenVLAConfig:
        """Return the architecture of the golden reference, for tests."""
        dino = TowerConfig(width=64, depth=4, heads=4, mlp_width=256, registers=4)
        siglip = TowerConfig(width=48, depth=5, heads=4, mlp_width=179, registers=0)
        language = LanguageConfig(
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
        return cls(dino=dino, siglip=siglip, language=language)

    @property
    def vision_width(self) -> int:
        """Features per image token."""
        return self.dino.width + self.siglip.width

    @classmethod
    def read(cls, values: Mapping[str, Any], shapes: Shapes, where: str) -> OpenVLAConfig:
        """Read the architecture from config.json and the shapes of the tensors.

        Raises UserError `where: field: reason`.
        """
        for field, expected in _FIXED.items():
            if values.get(field, expected) != expected:
                raise UserError(f"{where}: {field}: is {values[field]!r}, this back-end supports {expected!r}")
        language = validated(LanguageConfig, values.get("text_config", {}), f"{where}: text_config")
        heads = values.get("vision_heads", (None, None))
        if not isinstance(heads, list | tuple) or len(heads) != 2:
            raise UserError(f"{where}: vision_heads: expected two numbers, found {heads!r}")
        dino = _tower("vision_backbone.featurizer.", shapes, heads[0], where)
        siglip = _tower("vision_backbone.fused_featurizer.", shapes, heads[1], where)
        return cls(dino=dino, siglip=siglip, language=language)

    def to_json(self, norm_stats: Mapping[str, Any], dtype: str) -> dict[str, Any]:
        """Return config.json as upstream's classes read it; they ignore our `vision_heads`.

        norm_stats: content of dataset_statistics.json; dtype: of the weights, such as "bfloat16".
        """
        language = {k: v for k, v in self.language.model_dump(mode="json").items() if v is not None}
        return {
            **_FIXED,
            "architectures": ["OpenVLAForActionPrediction"],
            "arch_specifier": "no-align+gelu-mlp",
            "hf_llm_id": "meta-llama/Llama-2-7b-hf",
            "llm_backbone_id": "llama2-7b-pure",
            "llm_max_length": 2048,
            "norm_stats": norm_stats,
            "output_projector_states": False,
            "pad_token_id": 32000,
            "text_config": {"model_type": "llama", "pad_token_id": 32000, "torch_dtype": dtype, **language},
            "timm_model_ids": list(TIMM_IDS),
            "timm_override_act_layers": [None, None],
            "torch_dtype": dtype,
            "vision_heads": [self.dino.heads, self.siglip.heads],
        }


class _Decoding(FrozenModel):
    """How actions are predicted.

    decoding: `ar`, the seven tokens of one action in sequence, or `parallel`, `horizon` actions in one pass
    (OpenVLA-OFT); head: with `parallel`, 256 `bins` or continuous values by `l1` regression; horizon: actions.
    """

    decoding: Annotated[
        Literal["ar", "parallel"],
        Field(description="ar: one token after another; parallel: chunks in one pass (OpenVLA-OFT)."),
    ] = "ar"
    head: Annotated[
        Literal["bins", "l1"],
        Field(description="With parallel decoding: 256 bins, or continuous values by L1 regression."),
    ] = "bins"
    horizon: Annotated[int, Field(ge=1, le=1000, description="With parallel decoding: actions per chunk.")] = 1

    @model_validator(mode="after")
    def _chunks_need_parallel_decoding(self) -> Self:
        if self.decoding == "ar" and (self.horizon > 1 or self.head != "bins"):
            raise ValueError("horizon above 1 and head l1 need decoding parallel")
        return self


class DecodingConfig(_Decoding):
    """rldg_openvla.json: how a checkpoint was trained to predict actions. The defaults are upstream's.

    centre_crop: trained on random crops of 90 % of the area, so inference crops the centre of the image.
    """

    format: Literal["rldg-openvla-1"] = "rldg-openvla-1"
    centre_crop: bool = True


class OpenVLATrainConfig(_Decoding):
    """Training: LoRA adapters and AdamW at a constant rate. Defaults are the paper's (LoRA rank 32, batch 2 x 3) and
    those of upstream's finetune.py.

    steps: optimiser steps; batch: samples per process and micro-batch; accumulation: micro-batches per optimiser
    step; clip_norm: of the gradient (None, as upstream: not clipped); rank, alpha: of the adapters; precision: `auto`
    is bfloat16 autocast on a GPU that supports it, else float32; gradient_checkpointing: recompute activations to save
    memory (None: on a GPU); augment: upstream's random crop and colours; shuffle_buffer: samples (JPEG) in memory;
    save_every: optimiser steps between saved checkpoints.
    """

    steps: Steps = 10_000
    batch: Annotated[BatchSize, Field(description="Samples per process and micro-batch.")] = 2
    accumulation: Annotated[Count, Field(description="Micro-batches per optimiser step.")] = 3
    learning_rate: LearningRate = 5e-4
    weight_decay: NonNegative = 0.01
    clip_norm: Positive | None = None
    rank: Annotated[int, Field(ge=1, le=10_000, description="Rank of the LoRA adapters.")] = 32
    alpha: Annotated[int, Field(ge=1, le=1_000_000, description="Scale of the LoRA adapters.")] = 16
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Field(description="auto: bf16 on a GPU that supports it, else fp32.")
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool | None, Field(description="Recompute activations to save memory; default: on a GPU.")
    ] = None
    augment: Annotated[bool, Field(description="Random crop and colours, as upstream.")] = True
    shuffle_buffer: ShuffleBuffer = 10_000
    save_every: SaveEvery = 1000


_FIXED: dict[str, Any] = {
    "model_type": "openvla",
    "use_fused_vision_backbone": True,
    "vision_backbone_id": BACKBONE_ID,
    "image_sizes": [IMAGE_SIZE, IMAGE_SIZE],
    "image_resize_strategy": "resize-naive",
    "n_action_bins": BINS,
    "pad_to_multiple_of": 64,
}
"""Fields that are the same in every OpenVLA that this back-end supports."""


def _tower(prefix: str, shapes: Shapes, heads: int | None, where: str) -> TowerConfig:
    pos_embed = shapes.get(prefix + "pos_embed", ())
    mlp = shapes.get(prefix + "blocks.0.mlp.fc1.weight", ())
    block = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    depth = len({match[1] for name in shapes if (match := block.match(name))})
    if len(pos_embed) != 3 or len(mlp) != 2 or depth < 2:
        raise UserError(f"{where}: the weights hold no vision tower {prefix[:-1]!r} (pos_embed, blocks)")
    if pos_embed[1] != PATCHES:
        side = round(pos_embed[1] ** 0.5) * PATCH
        raise UserError(
            f"{where}: {prefix}pos_embed: made for images of {side} px, this back-end supports {IMAGE_SIZE}"
        )
    width = pos_embed[2]
    heads = HEADS_OF_WIDTH.get(width) if heads is None else heads
    if not heads or width % heads:
        raise UserError(f"{where}: vision_heads: {heads} does not fit the tower of width {width}")
    registers = shapes.get(prefix + "reg_token", (1, 0))[1]
    return TowerConfig(width=width, depth=depth, heads=heads, mlp_width=mlp[0], registers=registers)
