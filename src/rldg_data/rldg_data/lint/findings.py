"""A finding: a problem and where it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rldg_data.plausibility import Limits, Problem, Problems, Severity

__all__ = ["Finding", "Findings", "Limits", "Problem", "Problems", "Severity", "at"]


@dataclass(frozen=True)
class Finding:
    """error: a generalist would learn something false, or a reader would fail; warning: worth a look.

    episode: split, number and id, or the name of the bag; "" for the dataset as a whole.
    """

    severity: Severity
    check: str
    episode: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}: {self.episode or 'dataset'}: {self.message}"


Findings = Iterator[Finding]


def at(episode: str, problem: Problem) -> Finding:
    """The finding of a problem in an episode."""
    return Finding(problem.severity, problem.check, episode, problem.message)
