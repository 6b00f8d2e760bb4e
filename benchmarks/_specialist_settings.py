"""What one run of benchmarks/specialists.py is: read by the command line and by the process that trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "out/bench/specialists"
EVALUATIONS = 20
"""Episodes of one evaluation."""


@dataclass(frozen=True)
class Run:
    """One training run.

    seed: also the day of the simulated cell; preset: "" for that of the task; classifier: "" for rewards by ground
    truth; keep: folder to which the specialist is written at the end, default `folder`.
    """

    reference: str
    seed: int
    name: str = "full"
    demonstrations: int = 20
    interventions: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    preset: str = ""
    time_limit_s: float = 0.0
    evaluate_every: int = 0
    max_steps: int = 60_000
    classifier: str = ""
    keep: str = ""

    @property
    def file(self) -> Path:
        """Path of the JSON file with the result."""
        return self.folder.with_suffix(".json")

    @property
    def folder(self) -> Path:
        """Folder of the specialist."""
        return PARTS / f"{self.reference.replace(':', '_')}_{self.name}_{self.seed}"
