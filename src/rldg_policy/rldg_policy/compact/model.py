"""The network: two convolution stems with FiLM from the instruction, a small trunk, one of two heads.

The generalist of the paper sees the wrist image and the instruction, no proprioception; neither does this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policy.compact.config import ModelConfig
from rldg_policy.compact.heads import make_head
from rldg_policy.compact.inputs import view_images

VIEWS = 2


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

    def __init__(self, config: ModelConfig, view_px: int) -> None:
        super().__init__()
        first, second, third = config.channels
        self.conv1 = nn.Conv2d(3, first, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1)
        self.norm2 = nn.GroupNorm(4, second)
        self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.norm3 = nn.GroupNorm(4, third)
        self.squeeze = nn.Conv2d(third, config.squeeze, 3, stride=2, padding=1)
        side = -(-view_px // 4)
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
        x = F.silu(torch.addcmul(film[:, 1, :, None, None], x, 1 + film[:, 0, :, None, None]))
        attention = (x.flatten(2) * self.sharpness).softmax(2).reshape(x.shape)
        points = torch.cat([attention.sum(2) @ self.axis, attention.sum(3) @ self.axis], 1)
        return torch.cat([points, F.silu(self.squeeze(x)).flatten(1)], 1)


class CompactModel(nn.Module):
    """Pixels and instruction -> features, which the head turns into actions.

    An instruction is encoded once per episode and an image once, also when the window is 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.instruction = InstructionEncoder(config)
        stems = [Stem(config, side) for side in (config.whole_px, config.tip_px)]
        self.stems = nn.ModuleList(stems)
        inputs = config.window * sum(stem.features for stem in stems)
        self.trunk = nn.Sequential(
            nn.Linear(inputs, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.LayerNorm(config.width),
            nn.SiLU(),
        )
        self.head = make_head(config)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def seen(self, pixels: Tensor, film: Tensor) -> Tensor:
        """Images (N, P, 3) in [0, 1] and their FiLM (N, views, 2, C) -> what is seen in each (N, D)."""
        images = view_images((pixels - 0.5) * 4.0, self.config)
        return torch.cat([stem(x, film[:, i]) for i, (stem, x) in enumerate(zip(self.stems, images, strict=True))], 1)

    def features(self, seen: Tensor, mask: Tensor) -> Tensor:
        """Windows (B, W, D) and which of their images are real (B, W) -> (B, width)."""
        features: Tensor = self.trunk((seen * mask[..., None]).flatten(1))
        return features

    def forward(self, pixels: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """(B, W, P, 3), (B, W), (B, 96) -> features (B, width)."""
        film = self.instruction(tokens).repeat_interleave(self.config.window, 0)
        return self.features(self.seen(pixels.flatten(0, 1), film).reshape(*mask.shape, -1), mask)


def parameter_count(model: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in model.parameters())


def random_model(config: ModelConfig, seed: int) -> CompactModel:
    """Untrained; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CompactModel(config)
