"""Samples of an RLDS dataset, streamed in a shuffled order that can be resumed at any sample.

Episodes are read in sequence into a shuffle buffer, from which samples are drawn at random. The buffer holds JPEG data,
not decoded images: 10,000 samples of 256 px take about 100 MB, regardless of the size of the dataset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_data.rlds import IMAGE_KEY, Dataset, Episode


@dataclass(frozen=True)
class Sample:
    """One step of an episode with its observation window (W) and the action chunks (H) that start in it.

    images: W JPEG files, oldest first; padded at the start of the episode with the first image. image_mask (W,): False
    for padding. actions (W, H, 7) float32 [m, rad, gripper 0..1]: the chunk that starts at each of the W steps; padded
    with the last action after the end of the episode and with the first action before its start. action_mask (W, H):
    False for padding. episode: index in the dataset; index: of the step.
    """

    images: tuple[bytes, ...]
    image_mask: NDArray[np.bool_]
    actions: NDArray[np.float32]
    action_mask: NDArray[np.bool_]
    instruction: str
    episode: int
    index: int


def episode_samples(episode: Episode, number: int, window: int, horizon: int) -> Iterator[Sample]:
    """Yield one sample for each step that has an action: all but the last."""
    transitions = len(episode) - 1
    images = episode.images[IMAGE_KEY]
    for index in range(transitions):
        steps = np.arange(index - window + 1, index + 1)
        acts = steps[:, None] + np.arange(horizon)
        yield Sample(
            images=tuple(images[max(step, 0)] for step in steps.tolist()),
            image_mask=steps >= 0,
            actions=episode.action[np.clip(acts, 0, transitions - 1)],
            action_mask=(steps[:, None] >= 0) & (acts < transitions),
            instruction=episode.instruction,
            episode=number,
            index=index,
        )


def stream_samples(
    dataset: Dataset,
    *,
    window: int = 1,
    horizon: int = 1,
    split: str = "train",
    buffer: int = 10_000,
    seed: int = 0,
    epochs: int | None = None,
    skip: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Sample]:
    """Yield shuffled samples, each exactly once per epoch; epochs None: without end.

    The order depends only on dataset, seed and buffer. Rank r in a world of size w takes samples r, r + w, ...; `skip`
    drops the first samples of this rank, as if they had been consumed. Raises UserError when the split has no step with
    an action.
    """
    if not 0 <= rank < world or min(window, horizon, buffer) < 1 or skip < 0:
        raise ValueError(f"rank {rank} of {world}, window {window}, horizon {horizon}, buffer {buffer}, skip {skip}")
    per_epoch = sum(max(len(episode) - 1, 0) for episode in dataset.episodes(split)) if skip else 0
    first_epoch, left = divmod(rank + skip * world, per_epoch) if per_epoch else (0, rank)
    numbers = count(first_epoch) if epochs is None else range(first_epoch, epochs)
    shuffled = (_epoch(dataset, split, window, horizon, buffer, seed, number) for number in numbers)
    return islice(chain.from_iterable(shuffled), left, None, world)


def _epoch(
    dataset: Dataset, split: str, window: int, horizon: int, buffer: int, seed: int, number: int
) -> Iterator[Sample]:
    """Yield the samples of one epoch.

    When the buffer is full, each new sample replaces a random one, which is yielded.
    """
    rng = np.random.default_rng(derive_seed(seed, "shuffle", number))
    held: list[Sample] = []
    empty = True
    for episode_number, episode in enumerate(dataset.episodes(split)):
        for sample in episode_samples(episode, episode_number, window, horizon):
            empty = False
            if len(held) < buffer:
                held.append(sample)
                continue
            place = int(rng.integers(buffer))
            held[place], out = sample, held[place]
            yield out
    if empty:
        raise UserError(f"{dataset.path}: split {split!r} has no step with an action")
    for place in rng.permutation(len(held)).tolist():
        yield held[place]


def batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Yield lists of `size` samples; the last list of a finite stream may be shorter."""
    while batch := list(islice(samples, size)):
        yield batch
