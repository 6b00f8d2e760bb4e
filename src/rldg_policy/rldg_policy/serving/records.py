"""Input and output types of the policy server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.serving.chunks import RULES


@dataclass(frozen=True)
class Settings:
    """pace: name of an `rldg_ros.pace`, which selects the rules in `serving.pace`; live_weights: the active policy
    takes weights from a learner; chunks, ensemble_k: see `serving.chunks`; watchdog_s: how long the arm is held
    without an action from the policy before ticks count as missed. Raises UserError on an unknown rule."""

    task: Task
    pace: str = "real_time"
    live_weights: bool = False
    chunks: str = "newest"
    ensemble_k: float = 0.0
    watchdog_s: float = 2.0

    def __post_init__(self) -> None:
        if self.chunks not in RULES:
            raise UserError(f"parameter chunks: expected one of {', '.join(RULES)}, got {self.chunks!r}")

    @property
    def answer_within_s(self) -> float:
        """How long a tick with a queued action waits for a new chunk: half a control period."""
        return 0.5 * self.task.period_s

    @property
    def hold_after_s(self) -> float:
        """How long a tick without a queued action waits for a running inference, unless the next observation arrives
        first; then the arm is held. The inference of a chunk of length 1 may thus take nearly a whole period."""
        return 1.2 * self.task.period_s


@dataclass(frozen=True)
class Episode:
    """Content of the event START."""

    episode_id: str
    instruction: str
    seed: int
    first_stamp_ns: int
    step_count: int


class Received(NamedTuple):
    """An observation, and when it was received (monotonic [s])."""

    observation: Observation
    received_s: float


@dataclass(frozen=True)
class Action:
    """The answer to the observation with `stamp_ns`: values (A,) in [-1, 1]; hold: zeros, no action was available."""

    stamp_ns: int
    values: NDArray[np.float32]
    policy_id: str
    version: int
    received_s: float
    hold: bool = False


@dataclass
class Counts:
    """ticks = answered + missed; dry: answered by holding the arm. See PolicyStatus.msg."""

    ticks: int = 0
    missed: int = 0
    dry: int = 0
    rejected: int = 0
