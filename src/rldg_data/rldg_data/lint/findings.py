"""A finding, and the limits that decide what is one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rldg_data.recipe.selecting import NO_OP_M, NO_OP_RAD

Severity = Literal["error", "warning"]


class Problem(NamedTuple):
    """What a check says; where it was is added by the run."""

    severity: Severity
    check: str
    message: str


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


Problems = Iterator[Problem]
Findings = Iterator[Finding]


def at(episode: str, problem: Problem) -> Finding:
    """The finding of a problem in an episode."""
    return Finding(problem.severity, problem.check, episode, problem.message)


@dataclass(frozen=True)
class Limits:
    """What is still fine.

    max_gap: longest period between two steps, in median periods of the episode. One dropped frame (2.0) is
    everyday on a camera; from 2.5 on the delta of one step spans several.
    max_rate_ratio: an episode's median period against the dataset's. A delta per step means another speed at
    another rate; timers of one robot agree within some per cent.
    still_m, still_rad: a delta below both is a no-op, by the recipes' filter, too (`rldg_data.recipe.selecting`).
    max_no_op_ratio: share of still steps in an episode. Insertions wait and probe; above a half a policy that
    learns from it tends to stand still (the reason why OpenVLA's authors filtered LIBERO).
    max_saturated: share of an action dimension's steps at the largest magnitude of the dataset (within 2 %).
    Specialists do saturate; above 0.7 the scale or the controller limits the data, not the task.
    min_switch_m: change of the gripper's width that tells opening from closing; fingers on an object move less.
    switch_steps: steps within which the width follows a command (0.5 s at 10 Hz).
    max_wrong_switches: share of switches that the fingers answer the other way. Slips and late fingers stay below a
    quarter, another convention reaches nearly all.
    min_image_px: OpenVLA and Octo resize to 224 and 256; what is below 64 has lost the connector's edges.
    statistics_tolerance: relative; sums in another order differ by 1e-12, a forgotten episode by far more.
    """

    max_gap: float = 2.5
    max_rate_ratio: float = 1.2
    still_m: float = NO_OP_M
    still_rad: float = NO_OP_RAD
    max_no_op_ratio: float = 0.5
    max_saturated: float = 0.7
    min_switch_m: float = 0.005
    switch_steps: int = 5
    max_wrong_switches: float = 0.75
    min_image_px: int = 64
    statistics_tolerance: float = 1e-6
