"""What ends a fine-tuning: a loss that is no number, memory that does not suffice. One line each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rldg_core.errors import UserError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED", "bad_alloc")
"""What torch (CUDA, CPU) and XLA say; neither has one type for it."""


def check_loss(step: int, loss: float, last_checkpoint: Path | None) -> None:
    """Raise UserError when the loss is NaN or infinite. Call it before the weights of `step` are written anywhere."""
    if math.isfinite(loss):
        return
    kept = f"last good checkpoint: {last_checkpoint}" if last_checkpoint else "no checkpoint was written before"
    raise UserError(f"step {step}: loss is {loss}: lower the learning rate; {kept}")


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
