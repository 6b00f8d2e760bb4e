"""What fine-tuning minimises: cross-entropy of the action tokens, or L1 of continuous actions.

Each sample weighs the same, whatever part of its chunk lies beyond the episode's end: so micro-batches and processes
add up to one large batch exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rldg_policy.openvla.batch import Batch
from rldg_policy.openvla.model import OpenVLA
from rldg_policy.openvla.tokens import action_values, is_action


class Losses(NamedTuple):
    """loss: minimised; accuracy: share of right action tokens (NaN for continuous actions); l1: mean absolute error
    of normalised actions, decoded from the likeliest tokens. Accuracy and L1 as upstream's finetune.py logs them."""

    loss: Tensor
    accuracy: Tensor
    l1: Tensor


class Objective(nn.Module):
    """Batch -> losses; a module, so that DDP and FSDP wrap the whole computation."""

    def __init__(self, model: OpenVLA) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        """Means over the batch. Logits are computed where answers are read, not for prompt and image."""
        hidden = self.model.hidden(batch.input_ids, batch.pixel_values, batch.attention_mask, batch.slot_mask)
        answers = hidden.gather(1, batch.positions[..., None].expand(-1, -1, hidden.shape[-1]))
        if self.model.action_head is not None:
            return regression(self.model.action_head(answers), batch)
        return classification(self.model.language_model.lm_head(answers), batch)


def classification(logits: Tensor, batch: Batch) -> Losses:
    """Logits (B, K, vocabulary) -> cross-entropy over the whole vocabulary; `</s>` counts for the loss alone."""
    logits = logits.float()
    loss = F.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")
    with torch.no_grad():
        counted = is_action(batch.targets) & (batch.weight > 0)
        predicted, true = logits.argmax(-1)[counted], batch.targets[counted]
        l1 = F.l1_loss(decoded(predicted), decoded(true)).to(loss.device)
    return Losses((loss * batch.weight).sum() / len(loss), (predicted == true).float().mean(), l1)


def decoded(ids: Tensor) -> Tensor:
    """Ids -> normalised actions, on the CPU."""
    return torch.from_numpy(action_values(ids.cpu().numpy()))


def regression(predicted: Tensor, batch: Batch) -> Losses:
    """Actions (B, H, 7) -> L1."""
    error = (predicted.float() - batch.actions).abs().flatten(1)
    loss = (error * batch.weight).sum() / len(error)
    return Losses(loss, torch.full_like(loss, torch.nan).detach(), loss.detach())
