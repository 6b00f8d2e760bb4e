"""What fine-tuning starts from: a base checkpoint with fresh adapters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig

from rldg_core.seeding import derive_seed
from rldg_policy.openvla.checkpoint import read_model
from rldg_policy.openvla.config import OpenVLATrainConfig
from rldg_policy.openvla.heads import L1Head
from rldg_policy.openvla.lora import add_adapters
from rldg_policy.openvla.model import OpenVLA
from rldg_policy.openvla.resume import fingerprint
from rldg_policy.openvla.tokens import PromptTokenizer


@dataclass(frozen=True)
class Start:
    """model: with adapters, on the CPU; tokenizer: its own; adapter: as adapter_config.json describes it; base:
    folder; weights: fingerprint of the model before."""

    model: OpenVLA
    tokenizer: PromptTokenizer
    adapter: LoraConfig
    base: Path
    weights: str


def read_start(base: Path, config: OpenVLATrainConfig, seed: int, device: torch.device) -> Start:
    """Read the checkpoint and make it trainable: adapters, and the head of continuous actions.

    A head that the base has is trained further; a base without gets a fresh one. Raises UserError on a checkpoint
    that cannot be read whole.
    """
    tokenizer = PromptTokenizer(base)
    model = read_model(base, dtype=torch.bfloat16 if uses_bfloat16(config, device) else torch.float32)
    weights = fingerprint(model)
    adapter = add_adapters(model, config.rank, config.alpha, seed, str(base))
    model.action_head = action_head(model, config, seed)
    if gradient_checkpointing(config, device):
        # Of the language model alone: the vision towers' activations take about a gigabyte at batch 2.
        model.language_model.activation_checkpointing_enable({"use_reentrant": False})
    return Start(model.train(), tokenizer, adapter, base, weights)


def action_head(model: OpenVLA, config: OpenVLATrainConfig, seed: int) -> L1Head | None:
    """The head that is trained: the model's own or a seeded one, float32; None for bins."""
    if config.head != "l1":
        return None
    head = model.action_head
    if head is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "action_head"))
            head = L1Head(model.config.language.hidden_size)
    return head.float().requires_grad_(True)


def uses_bfloat16(config: OpenVLATrainConfig, device: torch.device) -> bool:
    """Whether weights are kept, and products computed, in bfloat16; adapters and optimiser are always float32."""
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def gradient_checkpointing(config: OpenVLATrainConfig, device: torch.device) -> bool:
    """Whether activations are computed again instead of kept."""
    return device.type == "cuda" if config.gradient_checkpointing is None else config.gradient_checkpointing
