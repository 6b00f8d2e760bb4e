"""Two interchangeable action heads: features (B, F) -> chunk of normalised actions (B, H, 7).

Each has `normalise` and `denormalise` (physical actions <-> its predictions), `loss`, and `sampler`, which predicts
actions with the current weights.
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
"""Features (B, F) and a random generator (None: deterministic) -> normalised chunk (B, H, 7)."""
SLOT_WIDTH = 32
"""Features of one action component, before its logits."""
CLIP = 5.0
"""Largest normalised action in diffusion (Octo)."""
NORM_EPSILON = 1e-5
"""Epsilon of torch's LayerNorm."""
TIME_FREQUENCY = 0.2
"""Initial standard deviation of the frequencies of the Fourier features (Octo)."""


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
        """Scale physical actions (..., 7) to [-1, 1]; the gripper 0..1 is unchanged."""
        return np.clip(statistics.bounds_normalise(physical), -1.0, 1.0)

    @staticmethod
    def denormalise(statistics: ActionStatistics, normalised: Float32) -> Float32:
        """Invert `normalise` within the percentiles."""
        return statistics.bounds_denormalise(normalised)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, H, 7, 256)."""
        slots = self.slots(features).reshape(len(features), self.config.horizon, ACTION_DIM, SLOT_WIDTH)
        logits: Tensor = self.bins(F.silu(slots))
        return logits

    def loss(self, features: Tensor, actions: Tensor, weight: Tensor, config: TrainConfig, rng: Generator) -> Tensor:
        """Return cross-entropy plus L1 error of the expected value; weight (B, H, 1) sums to 1 / 7; `rng` is unused."""
        logits = self(features)
        cross_entropy = -(soft_targets(actions, config.target_sigma_bins) * logits.log_softmax(-1)).sum(-1)
        error = (logits.softmax(-1) @ self.values - actions).abs()
        loss: Tensor = ((cross_entropy + config.l1_weight * error) * weight).sum()
        return loss

    def sampler(self) -> Sampler:
        """Return a sampler at temperature 1; without a generator it returns the mode (decode `mode`) or the mean."""
        return self._action

    def _action(self, features: Tensor, rng: Generator | None) -> Tensor:
        logits = self(features)
        if not bool(torch.isfinite(logits).all()):  # arg-max of NaN would be bin 0
            raise ValueError("the logits of the action bins are not finite")
        if rng is None and self.config.decode == "mode":
            return self.values[logits.argmax(-1)]
        if rng is None:
            expected: Tensor = logits.softmax(-1) @ self.values
            return expected
        drawn = torch.multinomial(logits.softmax(-1).reshape(-1, BINS), 1, generator=rng)
        return self.values[drawn.reshape(logits.shape[:-1])]


def soft_targets(actions: Tensor, sigma_bins: float) -> Tensor:
    """Return the target distribution (..., 256) of normalised actions (...): a Gaussian; sigma 0: one-hot."""
    if sigma_bins == 0:
        return F.one_hot(torch.from_numpy(to_bins(actions.numpy())), BINS).float()
    position = (actions + 1) * (BINS - 1) / 2 - 0.5
    distance = (torch.arange(BINS) - position[..., None]) / sigma_bins
    return torch.softmax(-0.5 * distance**2, -1)


def cosine_betas(steps: int) -> NDArray[np.float64]:
    """Return the noise variance of each diffusion step (Nichol and Dhariwal 2021, as in Octo)."""
    times = np.linspace(0.0, 1.0, steps + 1)
    kept = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
    betas: NDArray[np.float64] = np.clip(1 - kept[1:] / kept[:-1], 0.0, 0.999)
    return betas


class DenoisingStep(NamedTuple):
    """Coefficients of one denoising step.

    With noisy action x and predicted velocity v: x0 = noisy x - velocity v; next x = clean x0 + stay x + noise N(0, 1).
    This is the posterior mean with the standard deviation of beta, as in Octo, and without noise in the last step.
    Skipped noise levels make beta larger (Nichol and Dhariwal 2021, section 4).
    """

    noisy: float
    velocity: float
    clean: float
    stay: float
    noise: float

    @classmethod
    def between(cls, kept: float, kept_next: float) -> DenoisingStep:
        """Return the coefficients from alpha_bar `kept` to alpha_bar `kept_next`; 1: the last step."""
        beta = 1 - kept / kept_next
        return cls(
            noisy=math.sqrt(kept),
            velocity=math.sqrt(1 - kept),
            clean=math.sqrt(kept_next) * beta / (1 - kept),
            stay=math.sqrt(1 - beta) * (1 - kept_next) / (1 - kept),
            noise=math.sqrt(beta) if kept_next < 1 else 0.0,
        )


class DiffusionHead(nn.Module):
    """DDPM over the whole chunk with an MLP ResNet as denoiser (Octo's, narrower); actions are standardised.

    The network predicts v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) action (Salimans and Ho 2022), Octo's predicts
    the noise: the first of 20 denoising steps multiplies an error of the noise by 32, and after minutes of training the
    error is still too large (measured: samples spread as widely as the data).
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
        # One linear layer on [features, time, action], split because only the action changes between steps.
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
        """Scale physical actions (..., 7) to mean 0 and deviation 1, clipped to 5; the gripper 0..1 is unchanged."""
        return np.clip(statistics.gaussian_normalise(physical), -CLIP, CLIP)

    @staticmethod
    def denormalise(statistics: ActionStatistics, normalised: Float32) -> Float32:
        """Invert `normalise`."""
        return statistics.gaussian_denormalise(normalised)

    def forward(self, condition: Tensor, action: Tensor) -> Tensor:
        """Predict v (B, H * 7) from the condition (B, D) of features and time, and the noisy chunk (B, H * 7)."""
        x = condition + self.from_action(action)
        for block in self.blocks:
            x = x + block(x)
        velocity: Tensor = self.velocity(F.silu(x))
        return velocity

    def loss(self, features: Tensor, actions: Tensor, weight: Tensor, config: TrainConfig, rng: Generator) -> Tensor:
        """Return the squared error of v at `noise_draws` random noise levels; weight (B, H, 1) sums to 1 / 7."""
        draws = config.noise_draws
        count = draws * len(features)
        step = torch.randint(0, self.config.diffusion_steps, (count,), generator=rng)
        noise = torch.randn(count, actions[0].numel(), generator=rng)
        kept = torch.from_numpy(self.kept).float()[step][:, None]
        clean = actions.flatten(1).repeat(draws, 1)
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        target = kept.sqrt() * noise - (1 - kept).sqrt() * clean
        condition = self.from_features(features).repeat(draws, 1) + self.times()[step]
        error = (self(condition, noisy) - target).square().reshape(draws, *actions.shape)
        loss: Tensor = (error.mean(0) * weight).sum()
        return loss

    def sampler(self) -> Sampler:
        """Return a sampler; without a generator it starts from zero noise and adds none."""
        return DiffusionSampler(self)

    def times(self) -> Tensor:
        """Return the time embedding of each step, which is added to the condition (steps, D)."""
        phase = 2 * torch.pi * torch.arange(self.config.diffusion_steps)[:, None] * self.frequencies
        times: Tensor = self.from_time(self.time(torch.cat([phase.cos(), phase.sin()], 1)))
        return times


class DiffusionSampler:
    """Denoises in numpy with the head's weights at construction: for one chunk, torch's call overhead dominates.

    To reduce the number of calls, weights are folded: the affine part and the mean of LayerNorm into the following
    matrix, biases into a column for a constant input 1, and the sign in silu(x) = x / (1 + exp(-x)) into the matrices
    on both sides.
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
        # The last element is the constant 1 of the bias.
        self._normed = np.ones(width + 1, dtype=np.float32)
        self._hidden = np.ones(4 * width + 1, dtype=np.float32)
        kept = [*head.kept[head.levels], 1.0]
        self._steps = [DenoisingStep.between(*pair) for pair in pairwise(kept)]
        self._chunk = (config.horizon, ACTION_DIM)

    def __call__(self, features: Tensor, rng: Generator | None) -> Tensor:
        """Return the normalised chunk (B, H, 7) of features (B, F)."""
        shape = (len(self._steps) + 1, len(features), self._chunk[0] * self._chunk[1])
        noise = (torch.zeros(shape) if rng is None else torch.randn(shape, generator=rng)).numpy()
        condition = self._from_features(features).detach().numpy()
        chunks = [self._denoise(row, noise[:, i]) for i, row in enumerate(condition)]
        return torch.from_numpy(np.stack(chunks)).reshape(len(features), *self._chunk)

    def _denoise(self, condition: Float32, noise: Float32) -> Float32:
        """Denoise one chunk (H * 7,). condition (D,): of the features; noise (steps + 1, H * 7): per step, last:
        initial.
        """
        conditions = condition + self._times
        x: Float32 = noise[-1]
        for step, at_step, fresh in zip(self._steps, conditions, noise[-2::-1], strict=True):
            clean = step.noisy * x - step.velocity * self.velocity(at_step, x)
            if not np.isfinite(clean).all():  # clipping would turn Inf into the largest action
                raise ValueError("the denoiser's output is not finite")
            x = step.clean * np.minimum(np.maximum(clean, -CLIP), CLIP) + step.stay * x + step.noise * fresh
        return x

    def velocity(self, condition: Float32, action: Float32) -> Float32:
        """Return v (H * 7,) as the head's `forward` does, from condition (D,) and noisy chunk (H * 7,)."""
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
    """Return the configured head."""
    return BinsHead(config) if config.head == "bins" else DiffusionHead(config)
