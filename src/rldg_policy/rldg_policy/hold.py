"""The back-end `hold` does not move the arm: the default of a stack, and the fallback of an operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldg_core.policy import PolicySpec
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.checkpoint.early import no_checkpoint


class HoldPolicy:
    """Return a zero delta for every observation; the gate then targets the measured pose. `path` must be None."""

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        no_checkpoint("hold", path, task)
        self.spec = PolicySpec((), 0, 1, task.action.dim, 1, task.rates.control_hz)

    def warm_up(self) -> None:
        """Do nothing: there is nothing to compile."""

    def reset(self, instruction: str, seed: int) -> None:
        """Do nothing: no state depends on the episode."""

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return zeros (1, A)."""
        return np.zeros((1, self.spec.action_dim), dtype=np.float32)

    def close(self) -> None:
        """Do nothing: no resources are held."""
