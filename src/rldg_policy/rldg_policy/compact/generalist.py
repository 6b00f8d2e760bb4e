"""The compact generalist as `rldg finetune compact` finds it."""

from __future__ import annotations

from rldg_policy.compact.config import TrainConfig
from rldg_policy.generalist import Generalist

COMPACT = Generalist(
    title="the compact generalist",
    help="Train the compact generalist: 1-3 M parameters, minutes on one core.",
    config=TrainConfig,
    finetune="rldg_policy.compact.train:finetune",
    training_state=("state",),
    recognises=lambda config: str(config.get("format")).startswith("rldg-compact"),
)
