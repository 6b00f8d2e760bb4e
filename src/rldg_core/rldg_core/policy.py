"""The Policy interface: what the policy server requires of a back-end.

Back-ends register under the entry-point group `rldg.policies`; the server never imports one directly.
They satisfy these protocols structurally, so a back-end depends on rldg_core alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rldg_core.task import Task
from rldg_core.types import Observation


@dataclass(frozen=True)
class PolicySpec:
    """What a loaded policy expects and delivers; checked against the running stack before a swap.

    cameras: names that must be in the observation; image_size: smallest side it was made for [px] (0: any);
    action_dim: 6, or 7 with gripper; horizon: actions per inference; window: observations per inference; rate_hz:
    inferences per second; statistics_key: which action statistics normalise its output ("" when none do); version:
    weights; control_rates_hz: control rates that its actions are valid for, that of its training data first (None: the
    task's rate; empty: trained at an unknown rate).
    """

    cameras: tuple[str, ...]
    image_size: int
    window: int
    action_dim: int
    horizon: int
    rate_hz: float
    statistics_key: str = ""
    version: int = 0
    control_rates_hz: tuple[float, ...] | None = None


class Policy(Protocol):
    """One loaded policy. A back-end class is constructed as `Class(path, task, explore)`.

    path: checkpoint folder or None; task: the running task; explore: sample actions instead of the mean.
    The constructor loads everything and raises UserError with one line on a bad checkpoint.
    """

    @property
    def spec(self) -> PolicySpec: ...

    def warm_up(self) -> None:
        """Run the first (compiling) inference on a synthetic observation. Not called on the tick thread."""

    def reset(self, instruction: str, seed: int) -> None:
        """Start an episode. Afterwards the actions depend only on (seed, observations, weights).

        Raises UserError on an unsupported instruction; no observation of that episode is answered then.
        """

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return a chunk (H, A) in [-1, 1] for this observation; the server executes it tick by tick."""

    def close(self) -> None: ...


@runtime_checkable
class WindowedPolicy(Protocol):
    """A policy whose `spec.window` is above 1: it stores the observations of `act` and `remember`."""

    def remember(self, observation: Observation) -> None:
        """Store an observation without inference; called in order with `act`, on the same thread."""


@runtime_checkable
class TrainablePolicy(Protocol):
    """A policy that accepts weights from the learner while it runs."""

    @property
    def spec_hash(self) -> str:
        """Hash of the specification that weights must match."""

    def update_weights(self, data: bytes, version: int) -> None:
        """Replace the trainable weights by the safetensors in `data`. Raises UserError when they do not match."""


class PolicyFactory(Protocol):
    """Callable that an entry point resolves to."""

    def __call__(self, path: Path | None, task: Task, explore: bool) -> Policy: ...


class PolicyCheck(Protocol):
    """What an entry point of `rldg.policy_checks` is: it looks at a checkpoint before any process of a stack starts."""

    def __call__(self, backend: str, path: Path | None, task: Task) -> None:
        """Raise UserError with one line where loading `path` in a stack of `task` would fail for certain."""
