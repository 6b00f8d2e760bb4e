"""The gate as a state machine without ROS or clocks: who acts, what the arm is told, and when it is silent.

Every input method returns at most one `Command`, in the order in which they must be published; the
command of a latch (the safety action) is therefore always the last one until the latch is released.
Times `now_s` are monotonic, so neither clock jumps nor simulated time can fool a time-out; stamps only
identify observations. Lock-step: no time-out acts, an observation is executed exactly when everything
it waits for is there (docs/explanation/architecture.md, 'Lock-step'). Real time: newest data wins.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike

from rldg_control.observe import NO_CLOCK
from rldg_core.commands import command_of
from rldg_core.errors import UserError
from rldg_core.frames import SafetyBox
from rldg_core.plausible import check_pose
from rldg_core.task import ActionConfig
from rldg_core.types import ExecutedAction, Float32, Float64, Source

HUMAN_WINDOW_S = 0.2
"""Active human input overrides the policy for so long after it came (shared/design.md, step semantics)."""

STALE_PERIODS = 2.0
"""An observation older than this is not acted on."""

SILENCE_PERIODS = 2.5
"""No observation for so long is a lost observer: two periods and some jitter, so that losing one never latches."""

ACTION_PERIODS = 2.0
"""An observation left unanswered for so long, with no later one answered, is two missing actions."""

STARTS_KEPT = 10
"""As many events as `episode_event` sends again to a late subscriber."""

START_GRACE_S = 1.0
"""Time for the first action of an episode (a policy resets first); nothing was commanded yet, so silence is safe."""


class Phase(Enum):
    """IDLE: no episode; RUNNING: an episode; LATCHED: silent until released."""

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
    lockstep: bool = False
    wait_for_policy: bool = True
    wait_for_operator: bool = False
    teleop_without_episode: bool = True


@dataclass(frozen=True)
class Command:
    """To publish once: the target, then the executed action that reports it."""

    target_base_tcp: Float64
    executed: ExecutedAction


@dataclass
class Counters:
    """Since the node started; shown in /diagnostics."""

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
class _Seen:
    """An observation, as far as the gate needs it."""

    stamp_ns: int
    pose_base_tcp: Float64
    came_s: float


@dataclass(frozen=True)
class _Asked:
    """An answer of a policy or a person. `fault` says why it was rejected ("": it is good); `hold`: the policy had no
    action ready and asks that the arm stays where it is."""

    stamp_ns: int
    action: Float32
    source: Source
    active: bool
    came_s: float
    policy_id: str = ""
    policy_version: int = 0
    fault: str = ""
    hold: bool = False


def fault_of(action: Float32, dim: int) -> str:
    """One line that says what is wrong with an action, or "". Components outside [-1, 1] are clipped, not wrong."""
    if action.shape != (dim,):
        return f"action has {action.size} components, expected {dim}"
    return "" if np.all(np.isfinite(action)) else f"action holds NaN or Inf: {action.tolist()}"


def _old(age_s: float, limit_s: float) -> str:
    if np.isinf(age_s):
        return NO_CLOCK
    when = f"{age_s:.2f} s old" if age_s > 0 else f"{-age_s:.2f} s in the future"
    return (
        f"observations are {when} by their stamps, limit {limit_s:.2f} s (late camera stamps, or a clock that differs)"
    )


@dataclass
class GateLogic:
    """Arbitration and safety. See the module's text; one instance per activation of the node."""

    config: GateConfig
    phase: Phase = Phase.IDLE
    reason: str = ""
    counters: Counters = field(default_factory=Counters)
    _cause: Cause = Cause.REQUEST
    _other_publishers: tuple[str, ...] = ()
    # Observations, newest last. In real time a policy may answer one that is no longer the newest.
    _seen: deque[_Seen] = field(default_factory=lambda: deque(maxlen=8))
    _policy: _Asked | None = None
    _early: _Asked | None = None
    _person: _Asked | None = None
    _person_active_s: float = -np.inf
    _gripper: Float32 = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    _starts: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=STARTS_KEPT))
    # The running episode.
    _episode_id: str = ""
    _first_stamp_ns: int = 0
    _started_s: float = 0.0
    _answered_ns: int = -1
    _executed_in_episode: int = 0
    _last_step: int = -1
    _last_observation_s: float = 0.0
    _unanswered_s: float | None = None
    # The newest observation that could not be used, and when it came; what the observer reports.
    _unused: tuple[str, float] = ("", 0.0)
    _observer_fault: str = ""
    _frame_fault: str = ""

    def __post_init__(self) -> None:
        if self.config.lockstep and not (self.config.wait_for_policy or self.config.wait_for_operator):
            raise UserError("lockstep: one of the parameters wait_for_policy and wait_for_operator must be true")
        self._gripper = np.zeros(self.config.action.dim - 6, dtype=np.float32)

    # --- inputs -------------------------------------------------------------------------------------

    def on_observation(self, stamp_ns: int, pose_base_tcp: Float64, now_s: float, age_s: float = 0.0) -> Command | None:
        """A new observation: stamp, measured pose (7,), and its age by its stamp (ignored in lock-step; inf when no
        clock runs)."""
        try:
            check_pose(pose_base_tcp)
        except ValueError as error:
            self.counters.rejected_observations += 1
            self._unused = (str(error), now_s)
            return None
        limit_s = STALE_PERIODS * self.config.period_s
        if not self.config.lockstep and abs(age_s) > limit_s:
            self.counters.stale_observations += 1
            self._unused = (_old(age_s, limit_s), now_s)
            return None
        if self.config.lockstep and self._seen and stamp_ns <= self._seen[-1].stamp_ns:
            return None  # a latched topic sent it again
        self._seen.append(_Seen(stamp_ns, pose_base_tcp, now_s))
        if self.config.lockstep:
            return self._advance(now_s)
        if self.phase is Phase.RUNNING and stamp_ns >= self._first_stamp_ns:
            self._last_observation_s = now_s
            if self._unanswered_s is None:
                self._unanswered_s = now_s
            else:
                self.counters.missed_actions += 1
            # A person need not wait for the policy, which may be slow or dead.
            person = self._acting_person(now_s) if self.config.wait_for_policy else self._answering_person(now_s)
        elif self.phase is Phase.IDLE and self.config.teleop_without_episode:
            person = self._acting_person(now_s)
        else:
            return None
        early = self._early
        if early and early.stamp_ns <= stamp_ns:
            self._early = None
            answers = early.stamp_ns == stamp_ns and self.phase is Phase.RUNNING and stamp_ns >= self._first_stamp_ns
            self.counters.late_actions += not answers
            person = person or (early if answers else None)
        return self._execute(self._seen[-1], person) if person else None

    def on_policy_action(
        self,
        observation_stamp_ns: int,
        action: ArrayLike,
        policy_id: str,
        policy_version: int,
        now_s: float,
        hold: bool = False,
    ) -> Command | None:
        """The policy's answer to the observation of that stamp; `hold`: it has none ready, the arm stays."""
        values = np.asarray(action, dtype=np.float32)
        fault = fault_of(values, self.config.action.dim)
        self.counters.rejected_actions += bool(fault)
        asked = _Asked(
            observation_stamp_ns,
            values,
            Source.POLICY,
            True,
            now_s,
            policy_id,
            policy_version,
            fault and f"policy {policy_id}: {fault}",
            hold,
        )
        if self.config.lockstep:
            self._policy = asked
            return self._advance(now_s)
        if fault or self.phase is not Phase.RUNNING or not self.config.wait_for_policy:
            return None
        self._policy = asked
        if not self._seen or observation_stamp_ns > self._seen[-1].stamp_ns:
            # Nothing orders two topics: a fast policy's answer may overtake the observation it answers.
            self._early = asked
            return None
        oldest_s = now_s - STALE_PERIODS * self.config.period_s
        known = [s for s in self._seen if s.stamp_ns == observation_stamp_ns and s.came_s >= oldest_s]
        if not known or observation_stamp_ns < self._first_stamp_ns or observation_stamp_ns <= self._answered_ns:
            self.counters.late_actions += 1
            return None
        return self._execute(known[-1], self._acting_person(now_s) or asked)

    def on_teleop(self, stamp_ns: int, action: ArrayLike, active: bool, source: Source, now_s: float) -> Command | None:
        """Input of a person or of the scripted operator. In lock-step `stamp_ns` names the observation it answers."""
        values = np.asarray(action, dtype=np.float32)
        fault = fault_of(values, self.config.action.dim)
        self.counters.rejected_actions += bool(fault)
        asked = _Asked(stamp_ns, values, source, active, now_s, fault=fault and f"teleoperation: {fault}")
        if self.config.lockstep:
            self._person = asked
            return self._advance(now_s)
        if not fault:
            self._person = asked
            if active:
                self._person_active_s = now_s
        return None

    def on_step(self, episode_id: str, index: int, ended: bool, now_s: float) -> Command | None:
        """The episode manager's verdict: Step `index` was published; `ended`: terminated or truncated."""
        if self.phase is not Phase.RUNNING or episode_id != self._episode_id:
            return None
        self._last_step = index
        if ended:
            self.phase = Phase.IDLE
            return None
        return self._advance(now_s)

    def on_start(self, episode_id: str, first_observation_stamp_ns: int, now_s: float) -> Command | None:
        """An episode starts; observations of that stamp and later are acted on. A latch outlives it.

        A START that was heard before (a latched topic sends it again) is ignored.
        """
        start = (episode_id, first_observation_stamp_ns)
        if self.phase is Phase.LATCHED or start in self._starts:
            return None
        self._starts.append(start)
        self.phase = Phase.RUNNING
        self._episode_id = episode_id
        self._first_stamp_ns = first_observation_stamp_ns
        self._started_s = self._last_observation_s = now_s
        self._answered_ns, self._executed_in_episode, self._last_step = -1, 0, -1
        self._unanswered_s = None
        return self._advance(now_s)

    def on_end(self, episode_id: str) -> None:
        """The episode ended: silence until the next one."""
        if self.phase is Phase.RUNNING and episode_id == self._episode_id:
            self.phase = Phase.IDLE

    def on_publishers(self, others: tuple[str, ...], topic: str, now_s: float) -> Command | None:
        """Who else publishes targets. With two, the controller ignores every target (docs/how-to/hardware.md)."""
        self._other_publishers = others
        if not others:
            return None
        return self._latch(
            Cause.PUBLISHER,
            f"{topic}: second publisher {', '.join(others)}: stop it, the gate must be the only one",
            now_s,
        )

    def on_frame(self, fault: str, now_s: float) -> Command | None:
        """Why the measured and the controlled frame are not known to be one; latches until it is ""."""
        self._frame_fault = fault
        if self.phase is Phase.LATCHED and self._cause is Cause.FRAME:
            self.reason = fault
            if not fault:
                self.phase = Phase.IDLE
            return None
        return self._latch(Cause.FRAME, fault, now_s) if fault else None

    def on_observer(self, fault: str) -> None:
        """What the observer reports in /diagnostics, "" when all is well: names the cause of missing observations."""
        self._observer_fault = fault

    def hold(self, reason: str, now_s: float) -> Command | None:
        """A stop on request: measured pose once, then silence."""
        return self._latch(Cause.REQUEST, reason, now_s)

    def release(self, now_s: float) -> tuple[bool, str]:
        """Release the latch: (done, one line). Refused while its cause persists. The next START (or a person) acts."""
        if self.phase is not Phase.LATCHED:
            return True, "not latched"
        if self._other_publishers:
            return False, f"still latched: {', '.join(self._other_publishers)} still publishes targets"
        if self._frame_fault:
            return False, f"still latched: {self._frame_fault}"
        if self._cause is Cause.OBSERVATION and not self._observed_within(SILENCE_PERIODS, now_s):
            return False, f"still latched: {self.reason}, and none came since"
        released, self.phase, self.reason = self.reason, Phase.IDLE, ""
        return True, f"released: {released}"

    def on_time(self, now_s: float) -> Command | None:
        """Watchdogs of real time; call a few times per period. Does nothing in lock-step."""
        if self.config.lockstep or self.phase is not Phase.RUNNING or now_s - self._started_s < START_GRACE_S:
            return None
        period_s = self.config.period_s
        silent_s = now_s - self._last_observation_s
        if silent_s > SILENCE_PERIODS * period_s:
            return self._latch(Cause.OBSERVATION, self._why_no_observation(silent_s, now_s), now_s)
        if self._unanswered_s is not None and now_s - self._unanswered_s > ACTION_PERIODS * period_s:
            who = "policy" if self.config.wait_for_policy else "teleoperation"
            return self._latch(Cause.ACTION, f"no action from {who} for {now_s - self._unanswered_s:.2f} s", now_s)
        return None

    def summary(self) -> dict[str, str]:
        """State, reason and counters for diagnostics."""
        return {
            "state": self.phase.value,
            "reason": self.reason,
            **{k: str(v) for k, v in asdict(self.counters).items()},
        }

    # --- decisions ----------------------------------------------------------------------------------

    def _advance(self, now_s: float) -> Command | None:
        """Lock-step: execute the newest observation if everything it waits for is there."""
        if not self.config.lockstep or self.phase is not Phase.RUNNING or not self._seen:
            return None
        seen = self._seen[-1]
        if seen.stamp_ns < self._first_stamp_ns or seen.stamp_ns == self._answered_ns:
            return None
        if self._last_step < self._executed_in_episode - 1:
            return None
        sources = ((self._policy, self.config.wait_for_policy), (self._person, self.config.wait_for_operator))
        answers = [asked for asked, due in sources if due and asked and asked.stamp_ns == seen.stamp_ns]
        if len(answers) < self.config.wait_for_policy + self.config.wait_for_operator:
            return None
        for answer in answers:
            # The source answers once, so a bad answer is the same as a missing one; no time-out acts in lock-step.
            if answer.fault:
                return self._latch(Cause.ACTION, answer.fault, now_s)
        # The operator is last: active, it overrides; alone and still, it asks for no motion.
        return self._execute(seen, next((a for a in reversed(answers) if a.active), answers[-1]))

    def _acting_person(self, now_s: float) -> _Asked | None:
        """Real time: the newest input of a person who acts, now or within the last 0.2 s."""
        return self._person if now_s - self._person_active_s <= HUMAN_WINDOW_S else None

    def _answering_person(self, now_s: float) -> _Asked | None:
        """Real time: a live teleoperation. When it is the primary source, a still hand is an answer, too."""
        alive_s = SILENCE_PERIODS * self.config.period_s
        return self._person if self._person and now_s - self._person.came_s <= alive_s else None

    def _execute(self, seen: _Seen, asked: _Asked) -> Command:
        self._answered_ns, self._unanswered_s = seen.stamp_ns, None
        self._executed_in_episode += 1
        self.counters.executed += 1
        if asked.hold:
            self.counters.held += 1
            return self._stay(seen, asked.policy_id, asked.policy_version)
        requested, source = asked.action, asked.source
        if not asked.active:
            # A still hand asks for no motion; what stays under the dead-band must not creep.
            requested = np.concatenate([np.zeros(6, dtype=np.float32), requested[6:]])
        target, executed, action_clipped, box_clipped = command_of(
            requested, seen.pose_base_tcp, self.config.action, self.config.box
        )
        self._gripper = executed[6:]
        count, policy = self.counters, self._policy
        count.overridden += source in (Source.HUMAN, Source.SCRIPTED) and self.config.wait_for_policy
        count.action_clipped += action_clipped
        count.box_clipped += box_clipped
        return Command(
            target,
            ExecutedAction(
                observation_stamp_ns=seen.stamp_ns,
                requested=requested,
                executed=executed,
                source=source,
                action_clipped=action_clipped,
                box_clipped=box_clipped,
                policy_id=policy.policy_id if policy else "",
                policy_version=policy.policy_version if policy else 0,
            ),
        )

    def _stay(self, seen: _Seen, policy_id: str = "", policy_version: int = 0) -> Command:
        """The measured pose, not even clipped to the box: to stay commands no motion."""
        still = np.concatenate([np.zeros(6, dtype=np.float32), self._gripper])
        report = ExecutedAction(
            seen.stamp_ns, still, still, Source.HOLD, policy_id=policy_id, policy_version=policy_version
        )
        return Command(seen.pose_base_tcp, report)

    def _why_no_observation(self, silent_s: float, now_s: float) -> str:
        """Tell observations that come and cannot be used from none, and add what the observer reports."""
        unused, came_s = self._unused
        if unused and now_s - came_s <= SILENCE_PERIODS * self.config.period_s:
            return f"no usable observation for {silent_s:.2f} s: {unused}"
        return f"no observation for {silent_s:.2f} s" + (f": {self._observer_fault}" if self._observer_fault else "")

    def _latch(self, cause: Cause, reason: str, now_s: float) -> Command | None:
        """Latch the first reason; measured pose once. No policy asked for it: the report names none, unlike a hold
        that a policy asked for, after which the episode goes on.

        Nothing is sent when no recent measured pose is known - an old one would pull the arm back - and in
        lock-step between episodes, where the clock stands still and a target would move the cell on.
        """
        if self.phase is Phase.LATCHED:
            return None
        was, self.phase, self.reason, self._cause = self.phase, Phase.LATCHED, reason, cause
        self.counters.latches += 1
        seen = self._seen[-1] if self._seen else None
        running = was is Phase.RUNNING and seen is not None and seen.stamp_ns >= self._first_stamp_ns
        if seen is None or not (
            running or (not self.config.lockstep and self._observed_within(SILENCE_PERIODS, now_s))
        ):
            return None
        return self._stay(seen)

    def _observed_within(self, periods: float, now_s: float) -> bool:
        return bool(self._seen) and now_s - self._seen[-1].came_s <= periods * self.config.period_s
