"""State machine of the gate, without ROS and clocks: which source acts, which target is sent, and when it latches.

Every input method returns at most one `Command`; commands must be published in the order in which they are returned.
The command of a latch (the safety action) is therefore always the last one until the latch is released. Times `now_s`
are monotonic, so that neither clock jumps nor simulated time can affect a time-out; stamps only identify observations.
The pace (`rldg_control.pace`) decides when an observation is answered and which time-outs apply.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from rldg_control.gate.state import (
    Answer,
    Cause,
    Command,
    Counters,
    Decision,
    Execute,
    GateConfig,
    GateEpisode,
    GateState,
    Latch,
    MeasuredPose,
    Phase,
)
from rldg_core.commands import command_of
from rldg_core.plausible import check_pose
from rldg_core.types import ExecutedAction, Float32, Float64, Source

SILENCE_PERIODS = 2.5
"""Control periods without an observation after which the gate latches: two periods plus jitter, so that one lost
message does not latch."""

STARTS_KEPT = 10
"""Depth of the transient-local topic `episode_event`; replayed STARTs are dropped."""


class GatePace(Protocol):
    """Decides when an observation is answered and which time-outs apply. One instance per GateLogic."""

    needs_steps: bool
    """Whether the gate needs every Step (`on_step`)."""

    def accepts(self, state: GateState, stamp_ns: int, now_s: float, age_s: float) -> bool:
        """Return whether an observation with this stamp and age is used; count the ones that are not."""

    def on_observation(self, state: GateState, observation: MeasuredPose) -> Decision:
        """Handle a new observation, which is already the newest of `state.observations`."""

    def on_policy(self, state: GateState, answer: Answer) -> Decision:
        """Handle an answer of the policy, possibly with a fault."""

    def on_teleop(self, state: GateState, answer: Answer) -> Decision:
        """Handle input of a person or of the scripted operator, possibly with a fault."""

    def on_progress(self, state: GateState) -> Decision:
        """Handle the start of an episode, or a Step that did not end it."""

    def on_time(self, state: GateState, now_s: float) -> Decision:
        """Run the watchdogs."""

    def may_command_hold(self, state: GateState, now_s: float) -> bool:
        """Return whether a latch between episodes may command the newest measured pose."""


def fault_of(action: Float32, dim: int) -> str:
    """Return why an action is refused, or "". Components outside [-1, 1] are clipped, not refused."""
    if action.shape != (dim,):
        return f"action has {action.size} components, expected {dim}"
    return "" if np.all(np.isfinite(action)) else f"action has NaN or Inf: {action.tolist()}"


class GateLogic:
    """Arbitration and safety; one instance per activation of the node."""

    def __init__(self, config: GateConfig, make_pace: Callable[[GateConfig], GatePace]) -> None:
        """Raises UserError when the configuration does not fit the pace."""
        self.config = config
        self._pace = make_pace(config)
        self._state = GateState(config)
        self._gripper = self._state.empty_gripper
        self._starts: deque[tuple[str, int]] = deque(maxlen=STARTS_KEPT)
        self._other_publishers: tuple[str, ...] = ()
        self._frame_fault = ""

    @property
    def needs_steps(self) -> bool:
        """Whether `on_step` must be called for every Step."""
        return self._pace.needs_steps

    @property
    def phase(self) -> Phase:
        """Current phase."""
        return self._state.phase

    @property
    def cause(self) -> Cause:
        """Cause of the latest latch."""
        return self._state.cause

    @property
    def reason(self) -> str:
        """Why the gate is latched; "" when it is not."""
        return self._state.reason

    @property
    def counters(self) -> Counters:
        """Counters since the activation."""
        return self._state.counters

    # --- inputs -------------------------------------------------------------------------------------

    def on_observation(self, stamp_ns: int, pose_base_tcp: Float64, now_s: float, age_s: float = 0.0) -> Command | None:
        """Take an observation: stamp, measured pose (7,), and age by its stamp [s] (inf when no clock runs)."""
        state = self._state
        try:
            check_pose(pose_base_tcp)
        except ValueError as error:
            state.counters.rejected_observations += 1
            state.unusable = (str(error), now_s)
            return None
        if not self._pace.accepts(state, stamp_ns, now_s, age_s):
            return None
        observation = MeasuredPose(stamp_ns, pose_base_tcp, now_s)
        state.observations.append(observation)
        return self._carry_out(self._pace.on_observation(state, observation), now_s)

    def on_policy_action(
        self,
        observation_stamp_ns: int,
        action: ArrayLike,
        policy_id: str,
        policy_version: int,
        now_s: float,
        hold: bool = False,
    ) -> Command | None:
        """Take the policy's answer to the observation with this stamp. hold: no action is ready."""
        values = np.asarray(action, dtype=np.float32)
        fault = self._fault_of(values, f"policy {policy_id}")
        answer = Answer(
            observation_stamp_ns, values, Source.POLICY, True, now_s, policy_id, policy_version, fault, hold
        )
        return self._carry_out(self._pace.on_policy(self._state, answer), now_s)

    def on_teleop(self, stamp_ns: int, action: ArrayLike, active: bool, source: Source, now_s: float) -> Command | None:
        """Take input of a person or of the scripted operator. Lock-step: the stamp is that of the observation."""
        values = np.asarray(action, dtype=np.float32)
        fault = self._fault_of(values, "teleoperation")
        answer = Answer(stamp_ns, values, source, active, now_s, fault=fault)
        return self._carry_out(self._pace.on_teleop(self._state, answer), now_s)

    def on_step(self, episode_id: str, index: int, ended: bool, now_s: float) -> Command | None:
        """Take Step `index`; ended: it is terminated or truncated."""
        episode = self._state.episode
        if episode is None or episode_id != episode.id:
            return None
        if ended:
            self._end_episode(Phase.IDLE)
            return None
        episode.last_step = index
        return self._carry_out(self._pace.on_progress(self._state), now_s)

    def on_start(self, episode_id: str, first_observation_stamp_ns: int, now_s: float) -> Command | None:
        """Start an episode: observations with this stamp or a later one are answered. Ignored while latched.

        A START that was received before (the topic is transient local) is ignored.
        """
        start = (episode_id, first_observation_stamp_ns)
        if self.phase is Phase.LATCHED or start in self._starts:
            return None
        self._starts.append(start)
        self._state.phase = Phase.RUNNING
        self._state.episode = GateEpisode(episode_id, first_observation_stamp_ns, now_s, now_s)
        return self._carry_out(self._pace.on_progress(self._state), now_s)

    def on_end(self, episode_id: str) -> None:
        """End the episode; nothing is sent until the next one starts."""
        if self._state.episode is not None and episode_id == self._state.episode.id:
            self._end_episode(Phase.IDLE)

    def on_publishers(self, others: tuple[str, ...], topic: str, now_s: float) -> Command | None:
        """Latch while another node publishes targets: the controller ignores all targets of two publishers."""
        self._other_publishers = others
        if not others:
            return None
        return self._latch(
            Cause.PUBLISHER,
            f"{topic}: second publisher {', '.join(others)}, expected only the gate: stop it",
            now_s,
        )

    def on_frame(self, fault: str, now_s: float) -> Command | None:
        """Latch until the measured and the controlled frame are known to be the same (fault "")."""
        self._frame_fault = fault
        if self.phase is Phase.LATCHED and self.cause is Cause.FRAME:
            self._state.reason = fault
            if not fault:
                self._state.phase = Phase.IDLE
            return None
        return self._latch(Cause.FRAME, fault, now_s) if fault else None

    def on_observer(self, fault: str) -> None:
        """Take the observer's fault ("": none), which is named as the cause of missing observations."""
        self._state.observer_fault = fault

    def hold(self, reason: str, now_s: float) -> Command | None:
        """Latch on request: send the measured pose once, then nothing."""
        return self._latch(Cause.REQUEST, reason, now_s)

    def release(self, now_s: float) -> tuple[bool, str]:
        """Release the latch and return (done, one line). Refused while its cause persists."""
        if self.phase is not Phase.LATCHED:
            return True, "not latched"
        if self._other_publishers:
            return False, f"still latched: {', '.join(self._other_publishers)} still publishes targets"
        if self._frame_fault:
            return False, f"still latched: {self._frame_fault}"
        if self.cause is Cause.OBSERVATION and not self._state.observed_within(SILENCE_PERIODS, now_s):
            return False, f"still latched: {self.reason}, and none has arrived since"
        released, self._state.phase, self._state.reason = self.reason, Phase.IDLE, ""
        return True, f"released: {released}"

    def on_time(self, now_s: float) -> Command | None:
        """Run the watchdogs; call this a few times per control period."""
        return self._carry_out(self._pace.on_time(self._state, now_s), now_s)

    def summary(self) -> dict[str, str]:
        """Return state, reason and counters for diagnostics."""
        counters = {name: str(count) for name, count in asdict(self.counters).items()}
        return {"state": self.phase.value, "reason": self.reason, **counters}

    # --- outputs ------------------------------------------------------------------------------------

    def _fault_of(self, action: Float32, who: str) -> str:
        fault = fault_of(action, self.config.action.dim)
        self.counters.rejected_actions += bool(fault)
        return fault and f"{who}: {fault}"

    def _end_episode(self, phase: Phase) -> None:
        self._state.phase, self._state.episode = phase, None

    def _carry_out(self, decision: Decision, now_s: float) -> Command | None:
        if isinstance(decision, Execute):
            return self._execute(decision)
        if isinstance(decision, Latch):
            return self._latch(decision.cause, decision.reason, now_s)
        return None

    def _execute(self, decision: Execute) -> Command:
        observation, answer, policy = decision.observation, decision.answer, decision.policy
        if episode := self._state.episode:
            episode.answered_ns, episode.unanswered_s = observation.stamp_ns, None
            episode.executed += 1
        count = self.counters
        count.executed += 1
        if answer.hold:
            count.held += 1
            return self._stay(observation, answer.policy_id, answer.policy_version)
        requested = answer.action
        if not answer.active:
            # An inactive device requests no motion: input below the dead band must not move the arm slowly.
            requested = np.concatenate([np.zeros(6, dtype=np.float32), requested[6:]])
        target, executed, action_clipped, box_clipped = command_of(
            requested, observation.pose_base_tcp, self.config.action, self.config.box
        )
        self._gripper = executed[6:]
        count.overridden += answer.source in (Source.HUMAN, Source.SCRIPTED) and self.config.wait_for_policy
        count.action_clipped += action_clipped
        count.box_clipped += box_clipped
        return Command(
            target,
            ExecutedAction(
                observation_stamp_ns=observation.stamp_ns,
                requested=requested,
                executed=executed,
                source=answer.source,
                action_clipped=action_clipped,
                box_clipped=box_clipped,
                policy_id=policy.policy_id if policy else "",
                policy_version=policy.policy_version if policy else 0,
            ),
        )

    def _stay(self, observation: MeasuredPose, policy_id: str = "", policy_version: int = 0) -> Command:
        """Command the measured pose, not clipped to the box: a hold commands no motion."""
        still = np.concatenate([np.zeros(6, dtype=np.float32), self._gripper])
        report = ExecutedAction(
            observation.stamp_ns, still, still, Source.HOLD, policy_id=policy_id, policy_version=policy_version
        )
        return Command(observation.pose_base_tcp, report)

    def _latch(self, cause: Cause, reason: str, now_s: float) -> Command | None:
        """Keep the first reason and command the measured pose once.

        The report names no policy, unlike a hold that a policy requested, after which the episode continues. Nothing is
        sent when no recent measured pose is known: an old one would pull the arm back.
        """
        state = self._state
        if state.phase is Phase.LATCHED:
            return None
        episode, newest = state.episode, state.newest
        self._end_episode(Phase.LATCHED)
        state.reason, state.cause = reason, cause
        state.counters.latches += 1
        if newest is None:
            return None
        in_episode = episode is not None and newest.stamp_ns >= episode.first_stamp_ns
        return self._stay(newest) if in_episode or self._pace.may_command_hold(state, now_s) else None
