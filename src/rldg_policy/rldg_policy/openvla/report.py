"""What fine-tuning of OpenVLA returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
