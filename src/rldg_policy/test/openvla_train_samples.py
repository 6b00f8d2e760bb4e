"""The smallest OpenVLA that can be trained, with its configuration and batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from generalist_samples import make_episode

from rldg_policy.checkpoint.statistics import ActionStatistics
from rldg_policy.openvla.batch import Batch, Collator
from rldg_policy.openvla.config import LanguageConfig, OpenVLAConfig, OpenVLATrainConfig, TowerConfig
from rldg_policy.openvla.processing import PromptTokenizer
from rldg_policy.training.samples import episode_samples

SMALLEST = OpenVLAConfig(
    dino=TowerConfig(width=16, depth=2, heads=2, mlp_width=32, registers=4),
    siglip=TowerConfig(width=16, depth=2, heads=2, mlp_width=32, registers=0),
    language=LanguageConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2),
)
"""Two blocks per tower, of which one runs. The vocabulary keeps its size."""
MODES = {
    "ar": {},
    "bins": {"decoding": "parallel", "horizon": 3},
    "l1": {"decoding": "parallel", "horizon": 3, "head": "l1"},
}


def short(**options) -> OpenVLATrainConfig:
    """Return a configuration of two micro-batches of two, rank 4."""
    return OpenVLATrainConfig(**{"steps": 3, "batch": 2, "accumulation": 2, "rank": 4, "save_every": 2, **options})


def make_batch(tokenizer_folder: Path, config: OpenVLATrainConfig, instructions=("go", "insert the plug")) -> Batch:
    """Make a batch of one sample per instruction, the second at its episode's last action."""
    limits = {"min": [-0.01] * 6 + [0.0], "max": [0.01] * 6 + [1.0], "q01": [-0.01] * 6 + [0.0]}
    limits |= {"q99": [0.01] * 6 + [1.0], "mask": [True] * 6 + [False]}
    collate = Collator(PromptTokenizer(tokenizer_folder), ActionStatistics.read(limits, "x"), config, seed=5)
    samples = [
        list(episode_samples(make_episode(number, 4, instruction=text), number, 1, config.horizon))[3 * (number % 2)]
        for number, text in enumerate(instructions)
    ]
    return collate(samples, np.arange(len(samples)).tolist())
