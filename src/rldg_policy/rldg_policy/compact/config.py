"""Configuration of the compact generalist: what its checkpoint's config.json holds, and how it is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Index = Annotated[int, Field(ge=0, le=1_000_000_000)]
NotNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]

BINS = 256
"""Tokens per action component (generalists.md)."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Model):
    """Shape of the network.

    head: `bins` (256 per action component, OpenVLA's parametrisation) or `diffusion` (DDPM, Octo's); decode: how
    actions are taken from it: `sample`, `mean` (expected value; of diffusion, what no noise ends at) or `mode` (the
    likeliest bin, as OpenVLA). The default samples: what stands still at its mean where it is stuck gets out by
    chance (measured: docs/explanation/generalists.md).
    camera: which image it sees; image_size: the square image it was made for [px]; whole_px: side that the whole
    image is shrunk to; tip_px, tip_x, tip_y: side and upper left corner of a window at full resolution around the
    plug's tip, which stands still in a wrist image: a pixel of the 256 px image is about 0.4 mm there, and shrinking
    loses the sub-millimetre error that decides an insertion. window: observations, horizon: actions per chunk.
    channels: of the three convolution stages; squeeze: channels kept when the last map is flattened; width: of the
    trunk; instruction_buckets, instruction_width: hashed n-gram embeddings. diffusion_steps: levels of noise that are
    trained; denoising_steps: how many of them an action passes through (12 act as well as 20:
    docs/explanation/generalists.md).
    diffusion_width, diffusion_blocks, time_features: the denoiser, an MLP ResNet.
    """

    head: Literal["bins", "diffusion"] = "bins"
    decode: Literal["sample", "mean", "mode"] = "sample"
    camera: str = "wrist"
    image_size: Count = 256
    whole_px: Count = 64
    tip_px: Count = 96
    tip_x: Index = 80
    tip_y: Index = 96
    window: Annotated[int, Field(ge=1, le=2)] = 1
    horizon: Count = 4
    channels: tuple[Count, Count, Count] = (16, 32, 32)
    squeeze: Count = 12
    width: Count = 256
    instruction_buckets: Count = 1024
    instruction_width: Count = 32
    diffusion_steps: Count = 20
    denoising_steps: Count = 12
    diffusion_width: Count = 128
    diffusion_blocks: Count = 3
    time_features: Annotated[int, Field(ge=2, le=65_536, multiple_of=2)] = 32

    @model_validator(mode="after")
    def _mode_of_bins(self) -> ModelConfig:
        if self.decode == "mode" and self.head != "bins":
            raise ValueError("decode: mode is of bins")
        return self

    @model_validator(mode="after")
    def _levels_there(self) -> ModelConfig:
        if self.denoising_steps > self.diffusion_steps:
            raise ValueError(f"denoising_steps: more than the {self.diffusion_steps} diffusion_steps")
        return self

    @model_validator(mode="after")
    def _tip_inside(self) -> ModelConfig:
        if max(self.tip_x, self.tip_y) + self.tip_px > self.image_size:
            raise ValueError(f"tip_x, tip_y, tip_px: the window leaves the image of {self.image_size} px")
        return self

    @property
    def pixels(self) -> int:
        """Of both views of one image."""
        return self.whole_px**2 + self.tip_px**2


class TrainConfig(_Model):
    """Training: AdamW, linear warm-up then cosine to zero; the mean of the weights over the last steps is kept.

    What is varied is the look of things and never where they are: a shifted or cropped image would ask for another
    action than its label (OpenVLA's and Octo's crops move the port by millimetres), so the crop is left out here.
    jitter: strength of contrast, brightness and tint; recolour: of a random mixing of the colour channels, wave: of a
    random wave over colour space, which gives every material a new colour of its own; grey: share of samples without
    colour. So an unseen port with other colours is nothing new. instruction_dropout: share of samples that are not
    told the instruction: one that was never heard then leaves the decision to the image.
    mirror: share of samples that are seen in a mirror, left and right exchanged in images and actions: right for a
    camera in the hand's plane of symmetry, when left and right differ in nothing that matters.
    target_sigma_bins: width of the Gaussian around the true bin (HL-Gauss, Imani and White 2018): neighbouring bins
    are neighbouring actions, and a few thousand steps of data do not fill 256 of them; 0 is plain cross-entropy.
    l1_weight: of the error of the expected value. noise_draws: noise levels per sample and step (diffusion).
    average: decay of the moving average of the weights. save_every: steps between saves that a training can be
    resumed from. shuffle_buffer: samples; cached_images: decoded views that are kept (40 kB each).
    """

    steps: Count = 3000
    batch: Count = 32
    learning_rate: Annotated[float, Field(gt=0, le=1e9)] = 1e-3
    warmup_steps: Index = 50
    weight_decay: NotNegative = 1e-2
    clip_norm: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    average: Share = 0.995
    jitter: NotNegative = 0.15
    recolour: NotNegative = 0.35
    wave: NotNegative = 0.1
    grey: Share = 0.1
    instruction_dropout: Share = 0.3
    mirror: Share = 0.0
    target_sigma_bins: NotNegative = 3.0
    l1_weight: NotNegative = 1.0
    noise_draws: Count = 8
    save_every: Count = 250
    shuffle_buffer: Count = 10_000
    cached_images: Index = 16_000
    model: ModelConfig = ModelConfig()

    @model_validator(mode="after")
    def _mirror_in_the_middle(self) -> TrainConfig:
        if self.mirror and 2 * self.model.tip_x + self.model.tip_px != self.model.image_size:
            raise ValueError("mirror: the window around the tip (tip_x, tip_px) is not in the middle of the image")
        return self


class CheckpointConfig(_Model):
    """config.json of a checkpoint; what it expects of a stack is in rldg.json."""

    format: Literal["rldg-compact-2"] = "rldg-compact-2"
    weights_sha256: str
    model: ModelConfig
