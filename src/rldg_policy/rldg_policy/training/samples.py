"""Samples of an RLDS dataset, streamed in a shuffled order that can be taken up again anywhere.

A buffer is filled from episodes that are read one after another; what leaves it was drawn from it at random. It holds
JPEG files, never decoded images: 10,000 samples of 256 px take about 100 MB, whatever the size of the dataset.
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
    """One step of an episode with what was seen until then and what was done from then on; W: window, H: horizon.

    images: W JPEG files, oldest first; before the episode's start the first one is repeated. image_mask (W,): False
    where it is repeated. actions (W, H, 7) float32 [m, rad, gripper 0..1]: the chunk that begins at each of the W
    steps; the last action is repeated beyond the episode's end, the first one before its start. action_mask (W, H):
    False in both cases. episode: number in the dataset's order; index: of the step.
    """

    images: tuple[bytes, ...]
    image_mask: NDArray[np.bool_]
    actions: NDArray[np.float32]
    action_mask: NDArray[np.bool_]
    instruction: str
    episode: int
    index: int


def episode_samples(episode: Episode, number: int, window: int, horizon: int) -> Iterator[Sample]:
    """One sample per step that has an action: all but the last."""
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
    """Shuffled samples, every one exactly once per epoch; epochs None: endless.

    The order depends on the dataset, seed and buffer alone. Rank r of a world of w takes the samples r, r + w, ...
    of it; skip leaves out the first samples of this rank and gives what an uninterrupted stream would go on with.
    Raises UserError when the split has no step with an action.
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
    """All samples of one epoch. Each that comes in when the buffer is full drives out a random one."""
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
    """Lists of `size` samples; what is left at the end of a finite stream is a shorter one."""
    while batch := list(islice(samples, size)):
        yield batch
