"""What fine-tuning tells: curves and the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

LOSS_EVERY = 50
"""Optimiser steps per reported loss."""


@dataclass
class Curve:
    """Measures per optimiser step, averaged over windows of 50. rows: of the window that is not full yet."""

    windows: list[list[float]] = field(default_factory=list)
    rows: list[list[float]] = field(default_factory=list)

    def add(self, row: list[float]) -> None:
        """Measures of one optimiser step."""
        self.rows.append(row)
        if len(self.rows) == LOSS_EVERY:
            self.windows.append(_mean(self.rows))
            self.rows = []

    def columns(self) -> list[tuple[float, ...]]:
        """One tuple per measure, in the order of windows; what is left at the end counts as one."""
        windows = [*self.windows, _mean(self.rows)] if self.rows else self.windows
        return list(zip(*windows, strict=True))


def _mean(rows: list[list[float]]) -> list[float]:
    return [fmean(column) for column in zip(*rows, strict=True)]


@dataclass(frozen=True)
class OpenVLATrainResult:
    """steps: of the optimiser; samples: seen by all processes; trained: parameters; losses, l1s (of normalised
    actions), accuracies (of action tokens; empty for continuous actions): means over every 50 steps; samples_per_s:
    of all processes, since the start or the last resumption, saving left out."""

    checkpoint: Path
    steps: int
    samples: int
    episodes: int
    trained: int
    processes: int
    losses: tuple[float, ...]
    l1s: tuple[float, ...]
    accuracies: tuple[float, ...]
    samples_per_s: float
