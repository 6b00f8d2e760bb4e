"""Rules of this package for each pace of `rldg_ros.pace`, by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rldg_control.episode_logic import StepPace
from rldg_control.gate.logic import GatePace
from rldg_control.gate.state import GateConfig
from rldg_control.pace.lock_step import LockStepGate, LockStepSteps
from rldg_control.pace.real_time import RealTimeGate, RealTimeSteps


@dataclass(frozen=True)
class Rules:
    """gate: makes the GatePace; steps: (control period [s], exact rewards) -> StepPace; run_id: seed of a goal ->
    default prefix of its episode ids."""

    gate: Callable[[GateConfig], GatePace]
    steps: Callable[[float, bool], StepPace]
    run_id: Callable[[int], str]


_STARTED = time.strftime("%Y%m%d-%H%M%S")

RULES: Mapping[str, Rules] = {
    "real_time": Rules(RealTimeGate, RealTimeSteps, lambda _seed: _STARTED),
    # A lock-step run is repeatable: its seed names it.
    "lock_step": Rules(LockStepGate, LockStepSteps, lambda seed: f"seed{seed}"),
}
