"""Batches of the compact generalist: shared samples -> tensors. Decoded views are kept as long as there is room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rldg_core.seeding import derive_seed
from rldg_policy.compact.config import TrainConfig
from rldg_policy.compact.heads import Head
from rldg_policy.compact.inputs import instruction_tokens, mirrored, to_input, views
from rldg_policy.training.dataset import TrainingSet
from rldg_policy.training.samples import Sample, batches, stream_samples

MIRRORED = np.array([1, -1, 1, -1, 1, -1, 1], dtype=np.float32)
"""An action in the mirror at the hand's x-z plane: y and the turns about x and z change sign."""


@dataclass(frozen=True)
class Batch:
    """pixels (B, W, P, 3) in [0, 1], mask (B, W), tokens (B, 96), actions (B, H, 7) normalised for the head,
    weight (B, H, 1): alike for every real action, summing to 1 / 7."""

    pixels: Tensor
    mask: Tensor
    tokens: Tensor
    actions: Tensor
    weight: Tensor


class BatchSource:
    """Endless batches; those from step n on are the same whether or not the ones before were made."""

    def __init__(self, data: TrainingSet, head: Head, config: TrainConfig, seed: int) -> None:
        self._data, self._head, self._config, self._seed = data, head, config, seed
        self._views: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def batches(self, first_step: int) -> Iterator[Batch]:
        """From this step on."""
        config, model = self._config, self._config.model
        samples = stream_samples(
            self._data.dataset,
            window=model.window,
            horizon=model.horizon,
            buffer=config.shuffle_buffer,
            seed=self._seed,
            skip=first_step * config.batch,
        )
        for step, chosen in enumerate(batches(samples, config.batch), first_step):
            drawn = np.random.default_rng(derive_seed(self._seed, "mirror", step)).random(len(chosen))
            yield self.batch(chosen, drawn < config.mirror)

    def batch(self, samples: list[Sample], mirror: NDArray[np.bool_]) -> Batch:
        """Tensors of these samples; mirror (B,): which of them are mirrored."""
        buckets = self._config.model.instruction_buckets
        real = torch.from_numpy(np.stack([s.action_mask[-1] for s in samples])).float()[..., None]
        actions = np.stack([s.actions[-1] for s in samples])
        actions[mirror] *= MIRRORED
        pixels = np.stack([self._window(s) for s in samples])
        pixels[mirror] = mirrored(pixels[mirror], self._config.model)
        return Batch(
            pixels=to_input(pixels),
            mask=torch.from_numpy(np.stack([s.image_mask for s in samples])).float(),
            tokens=torch.from_numpy(np.stack([instruction_tokens(s.instruction, buckets) for s in samples])),
            actions=torch.from_numpy(self._head.normalise(self._data.actions, actions)),
            weight=real / (real.sum() * actions.shape[-1]),
        )

    def _window(self, sample: Sample) -> NDArray[np.uint8]:
        first = sample.index - len(sample.images) + 1
        steps = [max(first + i, 0) for i in range(len(sample.images))]
        return np.stack([self._pixels(sample.episode, k, j) for k, j in zip(steps, sample.images, strict=True)])

    def _pixels(self, episode: int, step: int, jpeg: bytes) -> NDArray[np.uint8]:
        found = self._views.get((episode, step))
        if found is None:
            found = views(jpeg, self._config.model)
            if len(self._views) < self._config.cached_images:
                self._views[episode, step] = found
        return found
