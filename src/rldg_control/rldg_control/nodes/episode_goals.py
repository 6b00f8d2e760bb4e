"""The action `run_episodes`: waits until the stack is ready, resets, runs one episode after the other, counts results.

Only results of the policy count: success, failure, a label, or the time limit. An episode that a stop
or a latch of the gate interrupted is repeated after the release (or ends the goal, stop_on_hold); one that a silent
part of the stack interrupted ends the goal with the cause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node

from rldg_control.episode_logic import STACK_FAULT, EpisodeLogic, Outcome
from rldg_control.nodes.episode_messages import EpisodeMessages
from rldg_control.nodes.resets import Reset
from rldg_control.nodes.waiting import FOREVER_S, GoalWait, Routine
from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_msgs.action import RunEpisodes
from rldg_msgs.msg import EpisodeEvent, GateStatus, ObserverStatus
from rldg_ros.log import Log
from rldg_ros.qos import LATCHED
from rldg_ros.reporting import Fault
from rldg_ros.subscriptions import subscribe

SETTLE_S = 0.5
"""How long a gate must stay released before the next episode starts."""

FIRST_OBSERVATION_S = 30.0

OBSERVER_FAULT_S = 10.0
"""A fault that the observer reports for this long after a reset ends the goal."""


class StackStatus:
    """Newest status of gate and observer."""

    def __init__(self, node: Node) -> None:
        self.gate_latched, self.gate_reason = False, ""
        self.observer = Fault()
        subscribe(node, GateStatus, "gate_status", self._on_gate, LATCHED)
        subscribe(node, ObserverStatus, "observer_status", self._on_observer, LATCHED)

    def _on_gate(self, message: GateStatus) -> None:
        self.gate_latched, self.gate_reason = message.phase == GateStatus.LATCHED, message.reason

    def _on_observer(self, message: ObserverStatus) -> None:
        # While drivers start, the observer reports missing inputs and no fault.
        self.observer.update(message.missing or message.fault, monotonic())


@dataclass(frozen=True)
class Numbering:
    """first: number of the next episode; run_id: seed of a goal -> prefix of its episode ids."""

    first: int
    run_id: Callable[[int], str]


@dataclass(frozen=True)
class Readiness:
    """missing: one line for each connection that an episode of this node lacks; timeout_s: how long a goal waits."""

    missing: Callable[[], list[str]]
    timeout_s: float


class EpisodeRunner:
    """Waits until the stack is ready, resets, and runs one episode."""

    def __init__(
        self,
        routine: Routine,
        logic: EpisodeLogic,
        messages: EpisodeMessages,
        status: StackStatus,
        reset: Reset,
        readiness: Readiness,
    ) -> None:
        self.routine, self._logic, self._messages = routine, logic, messages
        self._status, self._reset, self._readiness = status, reset, readiness

    def stop(self, detail: str) -> None:
        """End the running episode as truncated."""
        self._logic.stop(detail, monotonic())

    def abandon(self) -> None:
        """Drop an episode that never started."""
        self._logic.abandon()

    async def run(self, wait: GoalWait, plan: EpisodeEvent) -> Outcome:
        """Reset and run the planned episode to its end. Raises UserError when it cannot start, and on a cancel."""
        self._messages.begin(plan)
        first_ns = await self._reset.run(wait, plan)
        logic, observer = self._logic, self._status.observer
        self._messages.publish(logic.begin(first_ns, monotonic()))
        reset_s = monotonic()

        def started() -> bool:
            return logic.running or self._messages.outcome is not None

        found = await wait.holds(
            lambda: started() or observer.lasts(OBSERVER_FAULT_S, since_s=reset_s), FIRST_OBSERVATION_S
        )
        if not found or not started():
            raise UserError(f"no observation after the reset{observer.because()}")
        # A cancel reaches the logic, which ends the episode.
        await self.routine.until(lambda: self._messages.outcome is not None, FOREVER_S)
        assert self._messages.outcome is not None
        return self._messages.outcome

    async def wait_until_ready(self, wait: GoalWait) -> None:
        """Wait until every node is connected: in lock-step one lost message would stop the clock. Raises UserError."""
        timeout_s = self._readiness.timeout_s
        try:
            await wait.until(lambda: not self._missing(), timeout_s, "not ready")
        except UserError as error:
            raise UserError(f"{error}: {'; '.join(self._missing())}") if self._missing() else error from error
        await self._reset.connect(wait, timeout_s)

    async def wait_for_release(self, wait: GoalWait, stop_on_hold: bool, log: Log) -> None:
        """Wait while the gate is latched; with `stop_on_hold` raise UserError with the gate's reason."""
        status = self._status
        if not status.gate_latched:
            return
        if stop_on_hold:
            await self.routine.until(lambda: bool(status.gate_reason), SETTLE_S)
            raise UserError(f"the gate latched: {status.gate_reason or 'see gate_status'}")
        log.warning("the gate is latched: waiting for its release (gate/hold with hold: false)")
        await wait.until(lambda: not status.gate_latched, FOREVER_S, "", SETTLE_S)

    def _missing(self) -> list[str]:
        return [*self._readiness.missing(), *self._reset.missing()]


class EpisodeGoals:
    """The action server; one goal at a time."""

    def __init__(self, node: Node, runner: EpisodeRunner, task: Task, numbering: Numbering) -> None:
        self._log, self._runner, self._task, self._numbering = Log(node), runner, task, numbering
        self._index = numbering.first  # over all goals
        self.busy = False
        self._result, self._failed = RunEpisodes.Result(), False
        self._server = ActionServer(
            node,
            RunEpisodes,
            "run_episodes",
            self._finish,
            goal_callback=self._on_goal,
            handle_accepted_callback=lambda handle: runner.routine.start(self._execute(handle)),
            cancel_callback=self._on_cancel,
        )

    # --- the action's protocol ----------------------------------------------------------------------

    def _on_goal(self, goal: RunEpisodes.Goal) -> GoalResponse:
        if goal.episodes == 0:  # a client tests whether answers reach it (docs/explanation/architecture.md, Clients)
            return GoalResponse.REJECT
        if self.busy:
            self._log.warning("run_episodes: rejected, another goal is running (one at a time)")
            return GoalResponse.REJECT
        self.busy = True
        return GoalResponse.ACCEPT

    def _on_cancel(self, _handle: ServerGoalHandle) -> CancelResponse:
        self._runner.stop("cancelled")
        return CancelResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> None:
        self._result, self._failed = RunEpisodes.Result(), False
        try:
            await self._run(GoalWait(self._runner.routine, handle), handle, self._result)
        except UserError as error:
            self._result.message, self._failed = str(error), True
            self._log.warning(f"run_episodes: {error}")
        self._runner.abandon()
        # rclpy is informed last that the goal executes, so that its task ends immediately.
        handle.execute()

    def _finish(self, handle: ServerGoalHandle) -> RunEpisodes.Result:
        if handle.is_cancel_requested:
            handle.canceled()
        elif self._failed:
            handle.abort()
        else:
            handle.succeed()
        self.busy = False
        return self._result

    # --- the episodes -------------------------------------------------------------------------------

    async def _run(self, wait: GoalWait, handle: ServerGoalHandle, result: RunEpisodes.Result) -> None:
        goal = handle.request
        objects = [self._task.object_or_default(name) for name in goal.objects] or [self._task.default_object]
        await self._runner.wait_until_ready(wait)
        while result.episodes < goal.episodes:
            await self._runner.wait_for_release(wait, goal.stop_on_hold, self._log)
            # An episode that did not count is repeated with the same seed and object.
            name = objects[result.episodes % len(objects)]
            plan = EpisodeEvent(
                episode_id=f"{self._numbering.run_id(goal.seed)}/{self._index:06d}",
                task=self._task.name,
                object=name,
                instruction=self._task.instruction(name),
                seed=derive_seed(goal.seed, result.episodes),
            )
            self._index += 1
            outcome = await self._runner.run(wait, plan)
            if outcome.is_result:
                _count(handle, result, plan.episode_id, outcome)
            if handle.is_cancel_requested:
                raise UserError(f"cancelled after {result.episodes} of {goal.episodes} episodes")
            if outcome.reason == STACK_FAULT:
                raise UserError(f"{plan.episode_id}: {outcome.detail} The episode does not count.")
            if not outcome.is_result:
                self._log.warning(f"{plan.episode_id}: {outcome.detail}: the episode does not count")
        result.message = f"{result.successes} of {result.episodes} episodes succeeded"


def _count(handle: ServerGoalHandle, result: RunEpisodes.Result, episode_id: str, outcome: Outcome) -> None:
    result.episodes += 1
    result.successes += int(outcome.success)
    result.success = [*result.success, outcome.success]
    result.steps = [*result.steps, outcome.steps]
    result.episode_ids = [*result.episode_ids, episode_id]
    handle.publish_feedback(
        RunEpisodes.Feedback(
            episode=result.episodes, successes=result.successes, steps=outcome.steps, episode_id=episode_id
        )
    )
