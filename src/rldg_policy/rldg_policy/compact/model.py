"""The network: two convolution stems with FiLM from the instruction, a small trunk, 256 bins per action component.

The generalist of the paper sees the wrist image and the instruction, no proprioception; neither does this one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policy.compact.config import ACTION_DIM, BINS, ModelConfig
from rldg_policy.compact.inputs import VIEWS
from rldg_policy.compact.tokenize import bin_values

HEAD_WIDTH = 32


class InstructionEncoder(nn.Module):
    """Mean of hashed n-gram embeddings. They start at zero: a bucket that was never trained says nothing."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.instruction_width
        self.embedding = nn.Embedding(config.instruction_buckets + 1, width, padding_idx=0)
        nn.init.zeros_(self.embedding.weight)
        film = VIEWS * 2 * config.channels[2]
        self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, film))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 96) int64 -> FiLM scale and shift (B, views, 2, C)."""
        count = (tokens > 0).sum(1, keepdim=True).clamp(min=1)
        film: Tensor = self.output(self.embedding(tokens).sum(1) / count)
        return film.reshape(len(tokens), VIEWS, 2, -1)


class Stem(nn.Module):
    """One view -> features that keep where things are: the flattened map, and soft-argmax points finer than a cell."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        first, second, third = config.channels
        self.conv1 = nn.Conv2d(3, first, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(4, second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.norm3 = nn.GroupNorm(4, third)
        self.squeeze = nn.Conv2d(third, config.squeeze, 3, stride=2, padding=1)
        side = config.view_px // 4
        # Sharper than 1 from the start: a broad soft-argmax averages the position away.
        self.sharpness = nn.Parameter(torch.full((third, 1), 4.0))
        self.axis: Tensor
        self.register_buffer("axis", torch.linspace(-1.0, 1.0, side), persistent=False)
        self.features = 2 * third + config.squeeze * ((side + 1) // 2) ** 2

    def forward(self, image: Tensor, film: Tensor) -> Tensor:
        """image (B, 3, S, S), film (B, 2, C) -> (B, features)."""
        x = F.silu(self.conv1(image))
        x = F.silu(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(x))
        x = F.silu(x * (1 + film[:, 0, :, None, None]) + film[:, 1, :, None, None])
        attention = (x.flatten(2) * self.sharpness).softmax(2).reshape(x.shape)
        points = torch.cat([attention.sum(2) @ self.axis, attention.sum(3) @ self.axis], 1)
        return torch.cat([points, F.silu(self.squeeze(x)).flatten(1)], 1)


class CompactModel(nn.Module):
    """views (B, 2, 3, S, S) in [0, 1] and tokens (B, 96) -> logits (B, H, 7, 256)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.instruction = InstructionEncoder(config)
        stems = [Stem(config) for _ in range(VIEWS)]
        self.stems = nn.ModuleList(stems)
        inputs = sum(stem.features for stem in stems)
        slots = config.horizon * ACTION_DIM
        self.trunk = nn.Sequential(
            nn.Linear(inputs, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
            nn.Linear(config.width, slots * HEAD_WIDTH),
        )
        self.head = nn.Linear(HEAD_WIDTH, BINS)
        self.values: Tensor
        self.register_buffer("values", torch.from_numpy(bin_values()), persistent=False)

    def forward(self, views: Tensor, tokens: Tensor) -> Tensor:
        """Logits."""
        return self.decode(views, self.instruction(tokens))

    def decode(self, views: Tensor, film: Tensor) -> Tensor:
        """Logits from an instruction that is already encoded (once per episode)."""
        x = (views - 0.5) * 4.0
        features = torch.cat([stem(x[:, i], film[:, i]) for i, stem in enumerate(self.stems)], 1)
        slots = self.trunk(features).reshape(len(x), self.config.horizon, ACTION_DIM, HEAD_WIDTH)
        logits: Tensor = self.head(F.silu(slots))
        return logits

    def expected(self, logits: Tensor) -> Tensor:
        """Expected normalised action (B, H, 7)."""
        values: Tensor = logits.softmax(-1) @ self.values
        return values

    def action(self, logits: Tensor) -> Tensor:
        """Normalised action (B, H, 7) by the configured decoding."""
        if self.config.decode == "mean":
            return self.expected(logits)
        return self.values[logits.argmax(-1)]


def parameter_count(model: nn.Module) -> int:
    """Number of trained values."""
    return int(np.sum([p.numel() for p in model.parameters()]))
