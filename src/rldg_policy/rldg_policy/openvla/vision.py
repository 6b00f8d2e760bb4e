"""The two vision towers and the projector, with the parameter names of timm's models as OpenVLA saved them.

Source: timm 0.9.16 vision_transformer; openvla, modeling_prismatic (PrismaticVisionBackbone). The last block, the
final norm and SigLIP's pooling are in every checkpoint but are never executed: the features are those of the
second-to-last block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policy.openvla.config import PATCH, PATCHES, TowerConfig

EPS = 1e-6


class Mlp(nn.Module):
    """fc2(gelu(fc1(x))), GELU without approximation."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, width) to (B, N, width)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Attention(nn.Module):
    """Self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, width) to (B, N, width)."""
        batch, count, width = x.shape
        qkv = self.qkv(x).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


class LayerScale(nn.Module):
    """DINOv2's gain per channel; named as upstream, because transformers renames timm's `gamma`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        return x * self.scale_factor


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config.width, config.heads)
        self.ls1 = LayerScale(config.width) if config.registers else nn.Identity()
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = Mlp(config.width, config.mlp_width)
        self.ls2 = LayerScale(config.width) if config.registers else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, width) to (B, N, width)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class PatchEmbed(nn.Module):
    """Patch embedding: (B, 3, 224, 224) to (B, 256, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        """Return one token per patch, row by row."""
        out: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return out


class AttentionPool(nn.Module):
    """Weights of SigLIP's pooling head, which is in checkpoints but never executed."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        width = config.width
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, config.mlp_width)


class VisionTower(nn.Module):
    """DINOv2 with registers, or SigLIP."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.prefix = 1 + config.registers if config.registers else 0
        self.patch_embed = PatchEmbed(config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, PATCHES, config.width))
        if config.registers:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
            self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        if not config.registers:
            self.attn_pool = AttentionPool(config)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of the second-to-last block (B, 256, width) of normalised images (B, 3, 224, 224)."""
        x = self.patch_embed(images) + self.pos_embed
        if self.prefix:
            tokens = torch.cat([self.cls_token, self.reg_token], dim=1)
            x = torch.cat([tokens.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks[:-1]:
            x = block(x)
        features: Tensor = x[:, self.prefix :]
        return features


class VisionBackbone(nn.Module):
    """Both towers; their features are concatenated."""

    def __init__(self, dino: TowerConfig, siglip: TowerConfig) -> None:
        super().__init__()
        self.featurizer = VisionTower(dino)
        self.fused_featurizer = VisionTower(siglip)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map (B, 6, 224, 224), channels for DINOv2 then for SigLIP, to features (B, 256, sum of widths)."""
        dino, siglip = pixel_values.chunk(2, dim=1)
        return torch.cat([self.featurizer(dino), self.fused_featurizer(siglip)], dim=2)


class Projector(nn.Module):
    """Maps image features to embeddings of the language model."""

    def __init__(self, vision_width: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(vision_width, 4 * vision_width)
        self.fc2 = nn.Linear(4 * vision_width, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, 256, vision_width) to (B, 256, width)."""
        out: Tensor = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(features)))))
        return out
