"""How OpenVLA is fine-tuned. Defaults are the paper's (LoRA rank 32, batch 2 x 3) and upstream's finetune.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class OpenVLATrainConfig(BaseModel):
    """Training: LoRA and AdamW at a constant rate.

    steps: optimiser steps; batch: samples per process and micro-batch; accumulation: micro-batches per optimiser
    step; clip_norm: of the gradient (upstream: none); rank, alpha: of the adapters; decoding: `ar`, one action of 7
    tokens one after another, or `parallel`, `horizon` actions in one pass (OpenVLA-OFT); head: of `parallel`, 256
    `bins` or continuous values by `l1` regression; precision: `auto` is bfloat16 autocast on a GPU that has it, else
    float32; gradient_checkpointing: trades time for memory (None: on a GPU); augment: upstream's crop and colours;
    shuffle_buffer: samples (JPEG bytes) in memory; save_every: optimiser steps between saved checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: Count = 10_000
    batch: Count = 2
    accumulation: Count = 3
    learning_rate: Positive = 5e-4
    weight_decay: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.01
    clip_norm: Positive | None = None
    rank: Count = 32
    alpha: Count = 16
    decoding: Literal["ar", "parallel"] = "ar"
    horizon: Count = 1
    head: Literal["bins", "l1"] = "bins"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    gradient_checkpointing: bool | None = None
    augment: bool = True
    shuffle_buffer: Count = 10_000
    save_every: Count = 1000

    @model_validator(mode="after")
    def _one_way_of_decoding(self) -> Self:
        if self.decoding == "ar" and (self.horizon > 1 or self.head != "bins"):
            raise ValueError("horizon above 1 and head l1 need decoding parallel")
        return self
