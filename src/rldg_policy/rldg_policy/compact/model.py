"""The network: two convolutional encoders with FiLM from the instruction, a small trunk, and an action head.

Like the generalists of the paper, it gets the wrist image and the instruction, but no proprioception.
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
    """Mean of hashed n-gram embeddings, initialised to zero so that untrained buckets have no effect."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.instruction_width
        self.embedding = nn.Embedding(config.instruction_buckets + 1, width, padding_idx=0)
        nn.init.zeros_(self.embedding.weight)
        film = VIEWS * 2 * config.channels[2]
        self.output = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, film))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return FiLM scale and shift (B, views, 2, C) of tokens (B, 96) int64."""
        count = (tokens > 0).sum(1, keepdim=True).clamp(min=1)
        film: Tensor = self.output(self.embedding(tokens).sum(1) / count)
        return film.reshape(len(tokens), VIEWS, 2, -1)


class ImageEncoder(nn.Module):
    """Encodes one view so that positions are kept: the flattened feature map, and soft-argmax points (subpixel)."""

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
        # Initialised above 1: a broad soft-argmax loses the position.
        self.sharpness = nn.Parameter(torch.full((third, 1), 4.0))
        self.axis: Tensor
        self.register_buffer("axis", torch.linspace(-1.0, 1.0, side), persistent=False)
        self.features = 2 * third + config.squeeze * ((side + 1) // 2) ** 2

    def forward(self, image: Tensor, film: Tensor) -> Tensor:
        """Encode image (B, 3, S, S) with film (B, 2, C) to (B, features)."""
        x = F.silu(self.conv1(image))
        x = F.silu(self.norm2(self.conv2(x)))
        x = self.norm3(self.conv3(x))
        x = F.silu(torch.addcmul(film[:, 1, :, None, None], x, 1 + film[:, 0, :, None, None]))
        attention = (x.flatten(2) * self.sharpness).softmax(2).reshape(x.shape)
        points = torch.cat([attention.sum(2) @ self.axis, attention.sum(3) @ self.axis], 1)
        return torch.cat([points, F.silu(self.squeeze(x)).flatten(1)], 1)


class CompactModel(nn.Module):
    """Encodes pixels and instruction to features, from which the head predicts actions.

    An instruction is encoded once per episode, and an image once, also with window 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.instruction = InstructionEncoder(config)
        stems = [ImageEncoder(config, side) for side in (config.whole_px, config.tip_px)]
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

    def encode_images(self, pixels: Tensor, film: Tensor) -> Tensor:
        """Encode images (N, P, 3) in [0, 1] with FiLM (N, views, 2, C) to embeddings (N, D)."""
        images = view_images((pixels - 0.5) * 4.0, self.config)
        return torch.cat([stem(x, film[:, i]) for i, (stem, x) in enumerate(zip(self.stems, images, strict=True))], 1)

    def encode_window(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Encode windows of embeddings (B, W, D) to features (B, width); mask (B, W): 0 for padding."""
        features: Tensor = self.trunk((embeddings * mask[..., None]).flatten(1))
        return features

    def forward(self, pixels: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Encode pixels (B, W, P, 3), mask (B, W) and tokens (B, 96) to features (B, width)."""
        film = self.instruction(tokens).repeat_interleave(self.config.window, 0)
        return self.encode_window(self.encode_images(pixels.flatten(0, 1), film).reshape(*mask.shape, -1), mask)


def parameter_count(model: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(p.numel() for p in model.parameters())


def random_model(config: ModelConfig, seed: int) -> CompactModel:
    """Return an untrained model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CompactModel(config)
