"""What ends a fine-tuning: a loss that is no number, memory that does not suffice, a state of another training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rldg_core.errors import UserError
from rldg_policy.training.dataset import TrainingSet

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED", "bad_alloc")
"""What torch (CUDA, CPU) and XLA say; neither has one type for it."""


def check_loss(step: int, loss: float, last_checkpoint: Path | None) -> None:
    """Raise UserError when the loss is NaN or infinite. Call it before the weights of `step` are written anywhere."""
    if math.isfinite(loss):
        return
    kept = f"last good checkpoint: {last_checkpoint}" if last_checkpoint else "no checkpoint was written before"
    raise UserError(f"step {step}: loss is {loss}: lower the learning rate; {kept}")


def training_identity(
    data: TrainingSet, config: BaseModel, seed: int, *, free: set[str], **more: Any
) -> dict[str, Any]:
    """What must stay when a training is resumed (JSON): seed, data, `more`, and the configuration but for `free`."""
    fixed = config.model_dump(mode="json", exclude=free)
    return {"seed": seed, "dataset": data.sha256, "camera": data.camera, **more, **fixed}


def check_same_training(where: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError naming the first thing (seed, data, configuration) that differs from the one to be resumed."""
    for name, value in now.items():
        if before.get(name) == value:
            continue
        if name == "dataset":
            raise UserError(
                f"{where}: cannot resume: the dataset is another one than this training began with (sha256 "
                f"{str(before.get(name))[:12]}, now {value[:12]}): images, actions or instructions differ; put the old "
                "one back, or begin anew in another --out"
            )
        raise UserError(f"{where}: cannot resume: {name} was {before.get(name)}, now it is {value}")


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn every library's way of running out of memory into UserError `out of memory: <advice>`."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"out of memory: {advice}") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise UserError(f"out of memory: {advice}") from error
