"""Batches for the fine-tuning of OpenVLA.

The augmentation of a sample depends only on its number in the stream, so resumed runs and any number of processes get
the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rldg_core.image_codec import Image
from rldg_core.seeding import derive_seed
from rldg_policy.checkpoint.statistics import ActionStatistics
from rldg_policy.openvla.config import ACTION_DIM, PATCHES, OpenVLATrainConfig
from rldg_policy.openvla.processing import (
    IGNORED,
    PAD,
    PromptTokenizer,
    ar_example,
    parallel_example,
    pixel_values,
    training_view,
)
from rldg_policy.training.samples import Sample


class Batch(NamedTuple):
    """B samples of T tokens, H actions and K predictions (8 for `ar`, else H * 7).

    input_ids, attention_mask (B, T); pixel_values (B, 6, 224, 224); slot_mask (B, T), None for `ar`; positions (B, K):
    where predictions are read, counting the 256 image tokens; targets (B, K): token ids; actions (B, H, 7): normalised;
    weight (B, K): of the predictions in the loss; rows sum to 1, zero for padding after the end of the episode.
    """

    input_ids: Tensor
    attention_mask: Tensor
    pixel_values: Tensor
    slot_mask: Tensor | None
    positions: Tensor
    targets: Tensor
    actions: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`."""
        moved: list[Any] = [None if value is None else value.to(device) for value in self]
        return Batch(*moved)


class Collator:
    """Makes batches; actions are normalised between the quantiles of `statistics`, as OpenVLA."""

    def __init__(
        self, tokenizer: PromptTokenizer, statistics: ActionStatistics, config: OpenVLATrainConfig, seed: int
    ) -> None:
        self._tokenizer = tokenizer
        self._statistics = statistics
        self._config = config
        self._seed = derive_seed(seed, "augment")

    def __call__(self, samples: Sequence[Sample], numbers: Sequence[int]) -> Batch:
        """Make a batch. numbers: of the samples in the stream of all processes.

        Raises ValueError on an invalid image.
        """
        parallel = self._config.decoding == "parallel"
        actions = self._statistics.bounds_normalise(np.stack([sample.actions[-1] for sample in samples]))
        examples = [
            parallel_example(prompt, chunk) if parallel else ar_example(prompt, chunk[0])
            for prompt, chunk in zip((self._tokenizer(s.instruction) for s in samples), actions, strict=True)
        ]
        views = [self._view(sample, number) for sample, number in zip(samples, numbers, strict=True)]
        labels = padded([e.labels for e in examples], IGNORED)
        predicted = labels != IGNORED
        targets_at = predicted.nonzero()[:, 1].reshape(len(examples), -1)
        valid = torch.from_numpy(np.stack([sample.action_mask[-1] for sample in samples]))
        return Batch(
            input_ids=padded([e.ids for e in examples], PAD),
            attention_mask=padded([np.ones(len(e.ids), dtype=np.bool_) for e in examples], False),
            pixel_values=pixel_values(views),
            slot_mask=padded([e.slots for e in examples], False) if parallel else None,
            # A token is predicted at the position before it, a slot at its own position.
            positions=PATCHES + targets_at - (0 if parallel else 1),
            targets=labels[predicted].reshape(targets_at.shape),
            actions=torch.from_numpy(actions),
            weight=chunk_weight(valid) if parallel else torch.full(targets_at.shape, 1 / targets_at.shape[1]),
        )

    def _view(self, sample: Sample, number: int) -> Image:
        rng = np.random.default_rng([self._seed, number]) if self._config.augment else None
        return training_view(sample.images[-1], rng)


def chunk_weight(valid: Tensor) -> Tensor:
    """Return the weight of action components (B, H * 7), rows summing to 1. valid (B, H): False for padding."""
    weight = valid.float() / (ACTION_DIM * valid.sum(1, keepdim=True))
    return weight.repeat_interleave(ACTION_DIM, dim=1)


def padded(rows: Sequence[Any], value: int) -> Tensor:
    """Stack rows of different lengths to (B, longest), padded with `value` on the right."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], True, value)
