"""Two interchangeable heads: features (B, F) -> chunk of normalised actions (B, H, 7).

Each has `normalise` and `denormalise` (physical <-> what it predicts), `loss`, and `sampler`, which acts with the
weights of the moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from rldg_data.rlds import ACTION_DIM
from rldg_policy.action_bins import BINS, bin_values, to_bins
from rldg_policy.checkpoint.statistics import ActionStatistics
from rldg_policy.compact.config import ModelConfig, TrainConfig

Float32 = NDArray[np.float32]
Sampler = Callable[[Tensor, Generator | None], Tensor]
"""Features (B, F) and a generator to sample with, or None to be deterministic -> normalised chunk (B, H, 7)."""
SLOT_WIDTH = 32
"""Of an action component before its bins."""
CLIP = 5.0
"""Largest normalised action in diffusion (Octo)."""
NORM_EPSILON = 1e-5
"""Of torch's LayerNorm."""
TIME_FREQUENCY = 0.2
"""Standard deviation of the Fourier features' frequencies at the start (Octo)."""


class BinsHead(nn.Module):
    """256 bins per action component between the 1st and the 99th percentile (OpenVLA)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.slots = nn.Linear(config.width, config.horizon * ACTION_DIM * SLOT_WIDTH)
        self.bins = nn.Linear(SLOT_WIDTH, BINS)
        self.values: Tensor
        self.register_buffer("values", torch.from_numpy(bin_values()), persistent=False)

    @staticmethod
    def normalise(statistics: ActionStatistics, physical: Float32) -> Float32:
        """(..., 7) -> [-1, 1]; the gripper 0..1 as it is."""
        return np.clip(statistics.bounds_normalise(physical), -1.0, 1.0)

    @staticmethod
    def denormalise(statistics: ActionStatistics, normalised: Float32) -> Float32:
        """Inverse of `normalise` inside the percentiles."""
        return statistics.bounds_denormalise(normalised)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, H, 7, 256)."""
        slots = self.slots(features).reshape(len(features), self.config.horizon, ACTION_DIM, SLOT_WIDTH)
        logits: Tensor = self.bins(F.silu(slots))
        return logits

    def loss(self, features: Tensor, actions: Tensor, weight: Tensor, config: TrainConfig, rng: Generator) -> Tensor:
        """Cross-entropy + weighted error of the expected value; weight (B, H, 1) sums to 1 / 7; `rng` is not used."""
        logits = self(features)
        cross_entropy = -(soft_targets(actions, config.target_sigma_bins) * logits.log_softmax(-1)).sum(-1)
        error = (logits.softmax(-1) @ self.values - actions).abs()
        loss: Tensor = ((cross_entropy + config.l1_weight * error) * weight).sum()
        return loss

    def sampler(self) -> Sampler:
        """Samples at temperature 1; without a generator the likeliest bin or, unless that is configured, the mean."""
        return self._action

    def _action(self, features: Tensor, rng: Generator | None) -> Tensor:
        logits = self(features)
        if not bool(torch.isfinite(logits).all()):  # the likeliest of NaN is bin 0
            raise ValueError("the logits of the action bins are not finite")
        if rng is None and self.config.decode == "mode":
            return self.values[logits.argmax(-1)]
        if rng is None:
            expected: Tensor = logits.softmax(-1) @ self.values
            return expected
        drawn = torch.multinomial(logits.softmax(-1).reshape(-1, BINS), 1, generator=rng)
        return self.values[drawn.reshape(logits.shape[:-1])]


def soft_targets(actions: Tensor, sigma_bins: float) -> Tensor:
    """Normalised actions (...) -> distribution over the bins (..., 256): Gaussian around the value; 0: the true bin."""
    if sigma_bins == 0:
        return F.one_hot(torch.from_numpy(to_bins(actions.numpy())), BINS).float()
    position = (actions + 1) * (BINS - 1) / 2 - 0.5
    distance = (torch.arange(BINS) - position[..., None]) / sigma_bins
    return torch.softmax(-0.5 * distance**2, -1)


def cosine_betas(steps: int) -> NDArray[np.float64]:
    """Variance of the noise added in each step (Nichol and Dhariwal 2021, as Octo uses it)."""
    times = np.linspace(0.0, 1.0, steps + 1)
    kept = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: NDArray[np.float64] = np.clip(1 - kept[1:] / kept[:-1], 0.0, 0.999)
    return betas


class DenoisingStep(NamedTuple):
    """x, v -> clean = noisy x - velocity v -> clean clean + stay x + noise N(0, 1): the posterior's mean and, as Octo
    does, beta's deviation; none in the last step. Levels of the training that are left out make beta larger (Nichol
    and Dhariwal 2021, section 4)."""

    noisy: float
    velocity: float
    clean: float
    stay: float
    noise: float

    @classmethod
    def between(cls, kept: float, kept_next: float) -> DenoisingStep:
        """From where the share `kept` of the action's variance is left to where it is `kept_next`; 1: the end."""
        beta = 1 - kept / kept_next
        return cls(
            noisy=math.sqrt(kept),
            velocity=math.sqrt(1 - kept),
            clean=math.sqrt(kept_next) * beta / (1 - kept),
            stay=math.sqrt(1 - beta) * (1 - kept_next) / (1 - kept),
            noise=math.sqrt(beta) if kept_next < 1 else 0.0,
        )


class DiffusionHead(nn.Module):
    """DDPM over the whole chunk, which an MLP ResNet denoises (Octo's, narrower); actions by mean and deviation.

    The network predicts v = sqrt(kept) noise - sqrt(1 - kept) action (Salimans and Ho 2022) where Octo's predicts the
    noise: the first of 20 denoising steps multiplies an error of the noise by 32, which a training of minutes does
    not make small enough (measured: samples as wide as the data).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, chunk = config.diffusion_width, config.horizon * ACTION_DIM
        self.frequencies = nn.Parameter(TIME_FREQUENCY * torch.randn(config.time_features // 2))
        self.time = nn.Sequential(
            nn.Linear(config.time_features, 2 * config.time_features),
            nn.SiLU(),
            nn.Linear(2 * config.time_features, config.time_features),
        )
        # One linear layer on [features, time, action] in three parts: only the last changes with every step.
        self.from_features = nn.Linear(config.width, width)
        self.from_time = nn.Linear(config.time_features, width, bias=False)
        self.from_action = nn.Linear(chunk, width, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            for _ in range(config.diffusion_blocks)
        )
        self.velocity = nn.Linear(width, chunk)
        self.kept = np.cumprod(1 - cosine_betas(config.diffusion_steps))
        self.levels = np.linspace(config.diffusion_steps - 1, 0, config.denoising_steps).round().astype(int)

    @staticmethod
    def normalise(statistics: ActionStatistics, physical: Float32) -> Float32:
        """(..., 7) -> mean 0, deviation 1, at most 5; the gripper 0..1 as it is."""
        return np.clip(statistics.gaussian_normalise(physical), -CLIP, CLIP)

    @staticmethod
    def denormalise(statistics: ActionStatistics, normalised: Float32) -> Float32:
        """Inverse of `normalise`."""
        return statistics.gaussian_denormalise(normalised)

    def forward(self, condition: Tensor, action: Tensor) -> Tensor:
        """condition (B, D) of features and time, noisy chunk (B, H * 7) -> v (B, H * 7)."""
        x = condition + self.from_action(action)
        for block in self.blocks:
            x = x + block(x)
        velocity: Tensor = self.velocity(F.silu(x))
        return velocity

    def loss(self, features: Tensor, actions: Tensor, weight: Tensor, config: TrainConfig, rng: Generator) -> Tensor:
        """Squared error of v at `noise_draws` random levels; weight (B, H, 1) sums to 1 / 7."""
        draws = config.noise_draws
        count = draws * len(features)
        step = torch.randint(0, self.config.diffusion_steps, (count,), generator=rng)
        noise = torch.randn(count, actions[0].numel(), generator=rng)
        kept = torch.from_numpy(self.kept).float()[step][:, None]
        clean = actions.flatten(1).repeat(draws, 1)
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        wanted = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        condition = self.from_features(features).repeat(draws, 1) + self.times()[step]
        error = (self(condition, noisy) - wanted).square().reshape(draws, *actions.shape)
        loss: Tensor = (error.mean(0) * weight).sum()
        return loss

    def sampler(self) -> Sampler:
        """Samples; without a generator it starts from no noise and adds none: the middle of the distribution."""
        return DiffusionSampler(self)

    def times(self) -> Tensor:
        """What each step adds to the condition (steps, D)."""
        phase = 2 * torch.pi * torch.arange(self.config.diffusion_steps)[:, None] * self.frequencies
        times: Tensor = self.from_time(self.time(torch.cat([phase.cos(), phase.sin()], 1)))
        return times


class DiffusionSampler:
    """Denoising with the weights that the head has now, in numpy: for one chunk torch's calls cost more than their
    work.

    What an operation on a hundred numbers costs is the call, so the weights are folded until few are left: LayerNorm's
    affine part and its mean into the matrix behind it, biases into a column for a constant 1, and the sign in
    silu(x) = x / (1 + exp(-x)) into the matrices on its two sides.
    """

    def __init__(self, head: DiffusionHead) -> None:
        config = head.config
        self._blocks: list[tuple[Float32, Float32]] = []
        for block in head.blocks:
            gain, offset, wide, bias, thin, thin_bias = (p.detach().numpy() for p in block.parameters())
            scaled = wide * gain
            centred = scaled - scaled.mean(1, keepdims=True)
            self._blocks.append((-np.c_[centred, wide @ offset + bias], np.c_[-thin, thin_bias]))
        self._from_features = head.from_features
        self._times = head.times().detach().numpy()[head.levels]
        self._from_action = head.from_action.weight.detach().numpy()
        self._to_velocity = head.velocity.weight.detach().numpy()
        self._bias = head.velocity.bias.detach().numpy()
        width = config.diffusion_width
        self._mean = np.full(width, 1 / width, dtype=np.float32)
        # Behind the last number stands the 1 of the bias.
        self._normed = np.ones(width + 1, dtype=np.float32)
        self._hidden = np.ones(4 * width + 1, dtype=np.float32)
        kept = [*head.kept[head.levels], 1.0]
        self._steps = [DenoisingStep.between(*pair) for pair in pairwise(kept)]
        self._chunk = (config.horizon, ACTION_DIM)

    def __call__(self, features: Tensor, rng: Generator | None) -> Tensor:
        """Features (B, F) -> normalised chunk (B, H, 7)."""
        shape = (len(self._steps) + 1, len(features), self._chunk[0] * self._chunk[1])
        noise = (torch.zeros(shape) if rng is None else torch.randn(shape, generator=rng)).numpy()
        seen = self._from_features(features).detach().numpy()
        chunks = [self._denoise(row, noise[:, i]) for i, row in enumerate(seen)]
        return torch.from_numpy(np.stack(chunks)).reshape(len(features), *self._chunk)

    def _denoise(self, seen: Float32, noise: Float32) -> Float32:
        """What is seen (D,), noise of every step and of the start (steps + 1, H * 7) -> chunk (H * 7,)."""
        conditions = seen + self._times
        x: Float32 = noise[-1]
        for of, condition, fresh in zip(self._steps, conditions, noise[-2::-1], strict=True):
            clean = of.noisy * x - of.velocity * self.velocity(condition, x)
            if not np.isfinite(clean).all():  # clipped, Inf would be the largest action
                raise ValueError("the denoiser's output is not finite")
            x = of.clean * np.minimum(np.maximum(clean, -CLIP), CLIP) + of.stay * x + of.noise * fresh
        return x

    def velocity(self, condition: Float32, action: Float32) -> Float32:
        """What the head's forward gives: condition (D,), noisy chunk (H * 7,) -> v (H * 7,)."""
        x = condition + self._from_action.dot(action)
        normed, hidden = self._normed, self._hidden
        wide = hidden[:-1]
        for widen, narrow in self._blocks:
            mean = float(x.dot(self._mean))
            variance = float(x.dot(x)) / len(x) - mean * mean
            np.multiply(x, 1 / math.sqrt(variance + NORM_EPSILON), out=normed[:-1])
            np.dot(widen, normed, out=wide)
            np.divide(wide, 1 + np.exp(wide), out=wide)
            x += narrow.dot(hidden)
        velocity: Float32 = self._to_velocity.dot(x / (1 + np.exp(-x))) + self._bias
        return velocity


Head = BinsHead | DiffusionHead


def make_head(config: ModelConfig) -> Head:
    """The configured one."""
    return BinsHead(config) if config.head == "bins" else DiffusionHead(config)
