"""Data of the gate: configuration, observations, answers, the running episode, and counters."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from rldg_core.frames import SafetyBox
from rldg_core.task import ActionConfig
from rldg_core.types import ExecutedAction, Float32, Float64, Source

OBSERVATIONS_KEPT = 8
"""Observations that a policy may still answer in real time, where a newer one may have arrived meanwhile."""


class Phase(Enum):
    """IDLE: no episode; RUNNING: an episode; LATCHED: nothing is sent until it is released."""

    IDLE = "idle"
    RUNNING = "running"
    LATCHED = "latched"


class Cause(Enum):
    """Why the gate latched; decides when it may be released."""

    REQUEST = "request"
    OBSERVATION = "observation"
    ACTION = "action"
    PUBLISHER = "publisher"
    FRAME = "frame"


@dataclass(frozen=True)
class GateConfig:
    """wait_for_policy: the policy is the primary source, else teleoperation; wait_for_operator: lock-step only."""

    action: ActionConfig
    box: SafetyBox
    period_s: float
    wait_for_policy: bool = True
    wait_for_operator: bool = False
    teleop_without_episode: bool = True


@dataclass(frozen=True)
class Command:
    """Messages to publish once: the target, then the executed action that reports it."""

    target_base_tcp: Float64
    executed: ExecutedAction


@dataclass
class Counters:
    """Counts since the activation of the node, shown in /diagnostics."""

    executed: int = 0
    overridden: int = 0
    held: int = 0
    action_clipped: int = 0
    box_clipped: int = 0
    rejected_actions: int = 0
    rejected_observations: int = 0
    stale_observations: int = 0
    late_actions: int = 0
    missed_actions: int = 0
    latches: int = 0


@dataclass(frozen=True)
class MeasuredPose:
    """The part of an observation that the gate uses. received_s: monotonic time of its arrival."""

    stamp_ns: int
    pose_base_tcp: Float64
    received_s: float


@dataclass(frozen=True)
class Answer:
    """An action for the observation with this stamp.

    active: the device is moved (always true for a policy). fault: why the action is rejected ("": accepted). hold: the
    policy has no action ready and requests that the arm stays where it is.
    """

    stamp_ns: int
    action: Float32
    source: Source
    active: bool
    received_s: float
    policy_id: str = ""
    policy_version: int = 0
    fault: str = ""
    hold: bool = False


@dataclass(frozen=True)
class Execute:
    """Decision: send `answer` to the arm from `observation`. policy: the newest policy answer of the episode."""

    observation: MeasuredPose
    answer: Answer
    policy: Answer | None


@dataclass(frozen=True)
class Latch:
    """Decision: hold the measured pose and stay silent until released."""

    cause: Cause
    reason: str


Decision = Execute | Latch | None


@dataclass
class GateEpisode:
    """State of one episode, created at START and dropped at END. Times are monotonic [s]."""

    id: str
    first_stamp_ns: int
    started_s: float
    last_observation_s: float
    answered_ns: int = -1
    executed: int = 0
    last_step: int = -1
    unanswered_s: float | None = None
    policy: Answer | None = None
    early: Answer | None = None
    """Real time: an answer that arrived before the observation that it answers."""


@dataclass
class GateState:
    """State that persists across episodes, and the running episode (None between episodes and while latched)."""

    config: GateConfig
    phase: Phase = Phase.IDLE
    reason: str = ""
    cause: Cause = Cause.REQUEST
    episode: GateEpisode | None = None
    observations: deque[MeasuredPose] = field(default_factory=lambda: deque(maxlen=OBSERVATIONS_KEPT))
    counters: Counters = field(default_factory=Counters)
    unusable: tuple[str, float] = ("", 0.0)
    """Newest observation that could not be used: reason, and monotonic time of its arrival [s]."""
    observer_fault: str = ""

    @property
    def newest(self) -> MeasuredPose | None:
        """Newest observation, or None."""
        return self.observations[-1] if self.observations else None

    @property
    def empty_gripper(self) -> Float32:
        """Gripper part of an action before the first command."""
        return np.zeros(self.config.action.dim - 6, dtype=np.float32)

    def observed_within(self, periods: float, now_s: float) -> bool:
        """Return whether an observation arrived within so many control periods."""
        newest = self.newest
        return newest is not None and now_s - newest.received_s <= periods * self.config.period_s
