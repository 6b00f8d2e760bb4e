"""Augmentation of the compact generalist: other colours and light, same places (why: TrainConfig)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from rldg_policy.compact.config import TrainConfig

RECOLOURED = 0.9
"""Share of samples whose colours are mixed; the rest keeps the true ones."""
WAVE_FREQUENCY = 6.0
"""Standard deviation of the wave's frequency along each colour channel [rad per unit]."""


def recoloured(pixels: Tensor, config: TrainConfig, rng: Generator) -> Tensor:
    """(B, P, 3) in [0, 1] -> another look of each sample, alike for all its pixels (and so in all its views)."""
    size = len(pixels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=rng)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=rng)

    mixed = (uniform(0, 1, 1, 1) < RECOLOURED).float()
    grey = (uniform(0, 1, 1, 1) < config.grey).float()
    mixing = torch.eye(3) + mixed * config.recolour * normal(3, 3)
    mixing = mixing @ (torch.eye(3) * (1 - grey) + grey / 3)
    centred = pixels - 0.5
    phase = centred @ (WAVE_FREQUENCY * normal(3, 1)) + uniform(0, 2 * torch.pi, 1, 1)
    wave = torch.cos(phase) @ (mixed * config.wave * normal(1, 3))
    strength = config.jitter
    gain = 1 + uniform(-strength, strength, 1, 1) + uniform(-strength / 2, strength / 2, 1, 3)
    bias = uniform(-strength / 2, strength / 2, 1, 3)
    return (centred @ mixing + wave) * gain + 0.5 + bias
