"""The loop of Octo's fine-tuning: steps, losses and when to save; knows nothing of files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jax

from rldg_policy.generalist import Progress
from rldg_policy.octo.batch import Batch
from rldg_policy.octo.config import OctoTrainConfig
from rldg_policy.octo.freezing import Flat
from rldg_policy.octo.step import Steps, TrainState
from rldg_policy.training.guards import check_loss


@dataclass
class Record:
    """What is known of the training so far. losses: of every step; validation_losses: at every save;
    last_checkpoint: where the newest one is on the disk."""

    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    last_checkpoint: Path | None = None


def fit(
    steps: Steps,
    state: TrainState,
    frozen: Flat,
    batches: Iterator[Batch],
    config: OctoTrainConfig,
    record: Record,
    save: Callable[[int, TrainState], None],
    progress: Progress | None = None,
) -> float:
    """Go on after step len(record.losses) to the last one; save(step, state) every `save_every` steps and at the end.

    Returns samples per second of all steps but the first, which compiles, saving left out (0: there was no other).
    Raises UserError when a loss is not finite; nothing of that step is saved then.
    """
    first = len(record.losses)
    running: deque[jax.Array] = deque()
    busy_s, started = 0.0, time.perf_counter()
    for number in range(first + 1, config.steps + 1):
        state, loss = steps.train(state, frozen, next(batches))
        running.append(loss)
        save_now = number % config.save_every == 0 or number == config.steps
        # The device works on this step while the loss of the one before is read and the next batch is decoded.
        while len(running) > (0 if save_now or number == first + 1 else 1):
            value = float(running.popleft())
            check_loss(len(record.losses) + 1, value, record.last_checkpoint)
            record.losses.append(value)
            if progress:
                progress(len(record.losses), config.steps)
        if number == first + 1:
            started = time.perf_counter()
        if save_now:
            busy_s += time.perf_counter() - started
            save(number, state)
            started = time.perf_counter()
    timed = config.steps - first - 1
    return timed * config.batch / busy_s if timed > 0 else 0.0
