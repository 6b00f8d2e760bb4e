"""Configuration of the compact generalist: its network and its training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rldg_core.configuration import Count, FrozenModel, NonNegative, NonNegativeCount
from rldg_policy.config_types import BatchSize, LearningRate, SaveEvery, Share, ShuffleBuffer, Steps


class ModelConfig(FrozenModel):
    """Architecture of the network.

    head: `bins` (256 per action component, as OpenVLA) or `diffusion` (DDPM, as Octo). decode: how an action is taken
    from the predicted distribution: `sample`, `mean` (expected value; with diffusion, denoising without noise) or
    `mode` (most likely bin, as OpenVLA). The default samples, because a policy that is stuck at the mean action stays
    stuck (measured: docs/explanation/generalists.md).
    camera: name of the camera; image_size: side of the square input image [px]; whole_px: side to which the whole image
    is downscaled; tip_px, tip_x, tip_y: side and upper left corner of a full-resolution crop around the tip of the
    plug, which does not move in a wrist image. A pixel of the 256 px image is about 0.4 mm there, and downscaling loses
    the sub-millimetre error that decides an insertion.
    window: observations; horizon: actions per chunk. channels: of the three convolutions; squeeze: channels kept before
    the last feature map is flattened; width: of the trunk; instruction_buckets, instruction_width: hashed n-gram
    embeddings. diffusion_steps: noise levels in training; denoising_steps: noise levels at inference (12 act as well as
    20: docs/explanation/generalists.md). diffusion_width, diffusion_blocks, time_features: the denoiser, an MLP ResNet.
    """

    head: Annotated[
        Literal["bins", "diffusion"], Field(description="Action head: 256 bins as OpenVLA, or diffusion as Octo.")
    ] = "bins"
    decode: Annotated[
        Literal["sample", "mean", "mode"],
        Field(description="How an action is taken from the head's distribution; mode: with bins only."),
    ] = "sample"
    camera: str = "wrist"
    image_size: Count = 256
    whole_px: Count = 64
    tip_px: Count = 96
    tip_x: NonNegativeCount = 80
    tip_y: NonNegativeCount = 96
    window: Annotated[int, Field(ge=1, le=2, description="Observations per inference: 1 or 2.")] = 1
    horizon: Annotated[int, Field(ge=1, le=1000, description="Actions per chunk.")] = 4
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
    def _mode_needs_bins(self) -> ModelConfig:
        if self.decode == "mode" and self.head != "bins":
            raise ValueError("decode: mode needs head bins")
        return self

    @model_validator(mode="after")
    def _denoising_steps_exist(self) -> ModelConfig:
        if self.denoising_steps > self.diffusion_steps:
            raise ValueError(f"denoising_steps: more than the {self.diffusion_steps} diffusion_steps")
        return self

    @model_validator(mode="after")
    def _tip_crop_inside_image(self) -> ModelConfig:
        if max(self.tip_x, self.tip_y) + self.tip_px > self.image_size:
            raise ValueError(f"tip_x, tip_y, tip_px: the crop leaves the image of {self.image_size} px")
        return self

    @property
    def pixels(self) -> int:
        """Number of pixels in both views of one image."""
        return self.whole_px**2 + self.tip_px**2


class TrainConfig(FrozenModel):
    """Training: AdamW with linear warm-up, then cosine decay to zero; an exponential moving average of the weights is
    kept.

    Augmentation changes colours and light, never positions: a shifted or cropped image would need another action than
    its label, so the crops of OpenVLA and Octo, which move the port by millimetres, are left out.
    jitter: strength of contrast, brightness and tint; recolour: strength of a random mixing of the colour channels;
    wave: strength of a random wave over colour space, which gives every material a new colour; grey: share of samples
    without colour. Ports of unseen colours are then inside the training distribution. instruction_dropout: share of
    samples without an instruction, so that with an unseen instruction the image decides. mirror: share of samples that
    are mirrored left to right, images and actions alike; valid for a camera in the hand's plane of symmetry when left
    and right do not differ in anything that matters.
    target_sigma_bins: standard deviation of the Gaussian target around the true bin (HL-Gauss, Imani and White 2018):
    neighbouring bins are similar actions, and a few thousand steps of data do not fill 256 bins; 0: cross-entropy with
    the true bin. l1_weight: weight of the error of the expected value. noise_draws: noise levels per sample and step
    (diffusion). average: decay of the moving average. save_every: steps between checkpoints to resume from.
    shuffle_buffer: samples; cached_images: decoded views kept in memory (40 kB each).
    """

    model: ModelConfig = ModelConfig()
    steps: Steps = 3000
    batch: BatchSize = 32
    learning_rate: LearningRate = 1e-3
    warmup_steps: NonNegativeCount = 50
    weight_decay: NonNegative = 1e-2
    clip_norm: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    average: Share = 0.995
    jitter: NonNegative = 0.15
    recolour: NonNegative = 0.35
    wave: NonNegative = 0.1
    grey: Share = 0.1
    instruction_dropout: Share = 0.3
    mirror: Annotated[
        Share,
        Field(description="Share of samples that are mirrored: for a camera in the hand's plane of symmetry."),
    ] = 0.0
    target_sigma_bins: NonNegative = 3.0
    l1_weight: NonNegative = 1.0
    noise_draws: Count = 8
    shuffle_buffer: ShuffleBuffer = 10_000
    save_every: SaveEvery = 250
    cached_images: NonNegativeCount = 16_000

    @model_validator(mode="after")
    def _mirror_needs_centred_crop(self) -> TrainConfig:
        if self.mirror and 2 * self.model.tip_x + self.model.tip_px != self.model.image_size:
            raise ValueError("mirror: the crop around the tip (tip_x, tip_px) is not centred in the image")
        return self


class CheckpointConfig(FrozenModel):
    """config.json of a checkpoint; rldg.json holds what the checkpoint expects of a stack."""

    format: Literal["rldg-compact-2"] = "rldg-compact-2"
    weights_sha256: str
    model: ModelConfig
