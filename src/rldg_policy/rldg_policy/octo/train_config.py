"""How Octo is fine-tuned; defaults are upstream's (scripts/configs/finetune_config.py) with RLDG's batch of 64."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
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
"""What stands still in each of upstream's modes; `full` leaves out the language encoder, as Octo 1.5 was trained."""


class OctoTrainConfig(BaseModel):
    """AdamW with linear warm-up to `learning_rate`, then cosine to zero at `steps`.

    mode: which parameters learn; frozen: further patterns (fnmatch over dotted parameter paths) that stand still;
    window: observations per sample; augment: upstream's crop and colours; shuffle_buffer: samples (JPEG bytes) in
    memory; save_every: steps between saves, each a checkpoint, a training state and a validation;
    validation_batches: at most so many of the split `val`; workers: threads that decode and augment images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "full"
    frozen: tuple[str, ...] = ()
    steps: Count = 50_000
    batch: Count = 64
    window: Count = 1
    learning_rate: Positive = 3e-4
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 2000
    weight_decay: NotNegative = 0.01
    clip_norm: Positive = 1.0
    save_every: Count = 5000
    validation_batches: Annotated[int, Field(ge=0, le=1_000_000_000)] = 16
    augment: bool = True
    shuffle_buffer: Count = 10_000
    workers: Count = 4

    @model_validator(mode="after")
    def _warm_up_ends(self) -> OctoTrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be less than steps ({self.steps})")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """Patterns of the parameters that stand still."""
        return FROZEN_PATTERNS[self.mode] + self.frozen
