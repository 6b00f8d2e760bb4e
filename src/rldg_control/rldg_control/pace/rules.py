"""The rules of each pace, under the names that `rldg_ros.pace` gives them."""

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
    """gate: when it acts and latches; steps: (control period [s], exact rewards) -> how Steps are joined; run_id: seed
    of a goal -> default prefix of its episode ids."""

    gate: Callable[[GateConfig], GatePace]
    steps: Callable[[float, bool], StepPace]
    run_id: Callable[[int], str]


_STARTED = time.strftime("%Y%m%d-%H%M%S")

RULES: Mapping[str, Rules] = {
    "real_time": Rules(RealTimeGate, RealTimeSteps, lambda _seed: _STARTED),
    # A lock-step run is repeatable: its seed names it.
    "lock_step": Rules(LockStepGate, LockStepSteps, lambda seed: f"seed{seed}"),
}
