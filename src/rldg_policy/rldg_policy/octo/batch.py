"""Batches for the fine-tuning of Octo: wrist image for the primary tokenizer, instruction, normalised action chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.image_codec import decode_jpeg
from rldg_core.seeding import derive_seed
from rldg_policy.octo.config import OctoTrainConfig
from rldg_policy.training.augment import OCTO_PRIMARY_AUGMENT, augment, resize_lanczos
from rldg_policy.training.dataset import TrainingSet
from rldg_policy.training.samples import Sample, batches, stream_samples

PRIMARY = "image_primary"
LANGUAGE = "language_instruction"
VALIDATION = "val"

Batch = dict[str, Any]
"""observation {image_primary (B, W, S, S, 3) uint8, timestep_pad_mask (B, W), pad_mask_dict},
task {language_instruction (B, L, D) float32, pad_mask_dict}, action (B, W, H, 7) float32 normalised,
action_pad_mask (B, W, H, 7) bool; names are upstream's. There is no goal image: the tokenizer uses zeros."""


@dataclass(frozen=True)
class BatchSource:
    """Batches of a dataset. image_size: side [px]; horizon: actions per chunk; language: instruction -> embeddings
    (L, D); pool: decodes and augments images; seed: of order and augmentation."""

    data: TrainingSet
    config: OctoTrainConfig
    image_size: int
    horizon: int
    language: Callable[[str], NDArray[np.float32]]
    pool: Executor
    seed: int

    def training(self, steps_done: int) -> Iterator[Batch]:
        """Yield training batches without end, after those of `steps_done` steps."""
        size = self.config.batch
        stream = stream_samples(
            self.data.dataset,
            window=self.config.window,
            horizon=self.horizon,
            buffer=self.config.shuffle_buffer,
            seed=self.seed,
            skip=steps_done * size,
        )
        for number, samples in enumerate(batches(stream, size), start=steps_done):
            yield self.make(samples, number * size if self.config.augment else None)

    def validation(self) -> Iterator[Batch]:
        """Yield full batches of the split `val`, always the same; samples are repeated if there are too few for one."""
        size, most = self.config.batch, self.config.validation_batches
        if not self.data.dataset.splits.get(VALIDATION) or not most:
            return
        stream = stream_samples(
            self.data.dataset,
            window=self.config.window,
            horizon=self.horizon,
            split=VALIDATION,
            buffer=self.config.shuffle_buffer,
            seed=self.seed,
            epochs=1,
        )
        for number, samples in enumerate(islice(batches(stream, size), most)):
            if len(samples) == size or number == 0:
                yield self.make(list(islice(cycle(samples), size)), None)

    def make(self, samples: Sequence[Sample], position: int | None) -> Batch:
        """Make a batch. position: number of the first sample in the stream, which seeds augmentation; None: none."""
        numbers = range(position, position + len(samples)) if position is not None else [None] * len(samples)
        images = np.stack(list(self.pool.map(self._images, samples, numbers)))
        timestep_pad_mask = np.stack([sample.image_mask for sample in samples])
        actions = self.data.actions.gaussian_normalise(np.stack([sample.actions for sample in samples]))
        valid = np.stack([sample.action_mask for sample in samples])[..., None]
        return {
            "observation": {
                PRIMARY: images,
                "timestep_pad_mask": timestep_pad_mask,
                "pad_mask_dict": {PRIMARY: np.ones_like(timestep_pad_mask)},
            },
            "task": {
                LANGUAGE: np.stack([self.language(sample.instruction) for sample in samples]),
                "pad_mask_dict": {LANGUAGE: np.ones(len(samples), np.bool_)},
            },
            "action": actions,
            "action_pad_mask": np.broadcast_to(valid, actions.shape),
        }

    def _images(self, sample: Sample, number: int | None) -> NDArray[np.uint8]:
        size = self.image_size
        images = [decode_jpeg(jpeg) for jpeg in sample.images]
        images = [image if image.shape[:2] == (size, size) else resize_lanczos(image, size) for image in images]
        if number is not None:
            rng = np.random.default_rng(derive_seed(self.seed, "augment", number))
            images = augment(images, OCTO_PRIMARY_AUGMENT, rng)
        return np.stack(images)
