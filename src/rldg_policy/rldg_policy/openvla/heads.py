"""Continuous actions from the hidden states at the action slots: OpenVLA-OFT's L1 regression head.

Source: moojink/openvla-oft, action_heads (MLPResNet with two blocks); Kim, Finn, Liang 2025.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policy.openvla.config import ACTION_DIM


class ResidualBlock(nn.Module):
    """x + relu(linear(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return x + F.relu(self.linear(self.norm(x)))


class L1Head(nn.Module):
    """The seven hidden states of one action -> the action, normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(ACTION_DIM * width)
        self.fc_in = nn.Linear(ACTION_DIM * width, width)
        self.blocks = nn.ModuleList([ResidualBlock(width), ResidualBlock(width)])
        self.norm_out = nn.LayerNorm(width)
        self.fc_out = nn.Linear(width, ACTION_DIM)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, H * 7, width) -> actions (B, H, 7), trained with L1 towards [-1, 1]."""
        x = hidden.reshape(len(hidden), -1, self.fc_in.in_features)
        x = F.relu(self.fc_in(self.norm_in(x)))
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.fc_out(self.norm_out(x))
        return out
