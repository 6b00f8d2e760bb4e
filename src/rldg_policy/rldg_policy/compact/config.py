"""Configuration of the compact generalist: what its checkpoint's config.json holds, and how it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]

ACTION_DIM = 7
"""Of the datasets: delta of the tcp (6) and gripper, as OpenVLA's EEF_POS."""
BINS = 256
"""Tokens per action component (generalists.md)."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Model):
    """Shape of the network.

    camera: which image it sees; image_size: the square image it was made for [px]; view_px: side of both views
    (the whole image shrunk to it, and a window of it at full resolution: a pixel of the 256 px wrist image is about
    0.4 mm at the plug's tip, and shrinking loses the sub-millimetre error that decides an insertion); window_x,
    window_y: upper left corner of that window [px], around the plug's tip, which stands still in a wrist image;
    horizon: actions per chunk; channels: of the three convolution stages; squeeze: channels kept when the last map is
    flattened; width: of the trunk; instruction_buckets, instruction_width: hashed n-gram embeddings;
    decode: `mean` (expected value over the bins) or `mode` (the likeliest bin, as OpenVLA).
    """

    camera: str = "wrist"
    image_size: Count = 256
    view_px: Count = 96
    window_x: Annotated[int, Field(ge=0)] = 78
    window_y: Annotated[int, Field(ge=0)] = 104
    horizon: Count = 4
    channels: tuple[Count, Count, Count] = (16, 32, 32)
    squeeze: Count = 12
    width: Count = 256
    instruction_buckets: Count = 1024
    instruction_width: Count = 32
    decode: Literal["mean", "mode"] = "mean"


class TrainConfig(_Model):
    """Training: AdamW, linear warm-up then cosine to zero.

    target_sigma_bins: width of the Gaussian around the true bin (HL-Gauss, Imani and White 2018): neighbouring
    bins are neighbouring actions, and a few thousand steps of data do not fill 256 of them; 0 is plain
    cross-entropy. l1_weight: of the error of the expected value. jitter: strength of brightness and colour
    variation; the image is never shifted or cropped, which would make its labels wrong. validation_share: of
    the episodes, held out.
    """

    steps: Count = 1500
    batch: Count = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    weight_decay: NotNegative = 1e-2
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    target_sigma_bins: NotNegative = 3.0
    l1_weight: NotNegative = 1.0
    jitter: NotNegative = 0.15
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.08
    model: ModelConfig = ModelConfig()


class CheckpointConfig(_Model):
    """config.json of a checkpoint. task: the one its data came from; statistics_key: name of the dataset."""

    format: Literal["rldg-compact-1"] = "rldg-compact-1"
    task: str
    statistics_key: str
    version: Annotated[int, Field(ge=0)]
    weights_sha256: str
    model: ModelConfig
