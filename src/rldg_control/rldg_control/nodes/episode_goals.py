"""The action `run_episodes`: waits until the stack is ready, resets, runs one episode after the other, counts results.

Only what says something about the policy counts: ends by the task, a label or the time limit. An episode that a stop
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

from rldg_control.episode_logic import STACK, EpisodeLogic, Outcome
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
"""A released gate must have stayed so for this long."""

FIRST_OBSERVATION_S = 30.0

OBSERVER_FAULT_S = 10.0
"""A fault that the observer has reported for so long after a reset does not go away by waiting."""


class StackStatus:
    """What gate and observer report."""

    def __init__(self, node: Node) -> None:
        self.gate_latched, self.gate_reason = False, ""
        self.observer = Fault()
        subscribe(node, GateStatus, "gate_status", self._on_gate, LATCHED)
        subscribe(node, ObserverStatus, "observer_status", self._on_observer, LATCHED)

    def _on_gate(self, message: GateStatus) -> None:
        self.gate_latched, self.gate_reason = message.phase == GateStatus.LATCHED, message.reason

    def _on_observer(self, message: ObserverStatus) -> None:
        # While drivers start, the observer reports no fault, but says what it has not received.
        self.observer.update(message.missing or message.fault, monotonic())


@dataclass(frozen=True)
class Numbering:
    """first: number of the next episode; run_id: seed of a goal -> prefix of its episode ids."""

    first: int
    run_id: Callable[[int], str]


class EpisodeGoals:
    """One goal at a time. `missing()` of the node and of the reset say what an episode still needs."""

    def __init__(
        self,
        node: Node,
        routine: Routine,
        logic: EpisodeLogic,
        messages: EpisodeMessages,
        status: StackStatus,
        reset: Reset,
        task: Task,
        numbering: Numbering,
        missing: Callable[[], list[str]],
        ready_timeout_s: float,
    ) -> None:
        self._log, self._routine, self._logic, self._messages = Log(node), routine, logic, messages
        self._status, self._reset, self._task, self._numbering = status, reset, task, numbering
        self._missing_in_node, self._ready_timeout_s = missing, ready_timeout_s
        self._index = numbering.first  # over all goals
        self.busy = False
        self._result, self._failed = RunEpisodes.Result(), False
        self._server = ActionServer(
            node,
            RunEpisodes,
            "run_episodes",
            self._finish,
            goal_callback=self._on_goal,
            handle_accepted_callback=lambda handle: routine.start(self._execute(handle)),
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
        self._logic.stop("cancelled", monotonic())
        return CancelResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> None:
        self._result, self._failed = RunEpisodes.Result(), False
        try:
            await self._run(GoalWait(self._routine, handle), handle, self._result)
        except UserError as error:
            self._result.message, self._failed = str(error), True
            self._log.warning(f"run_episodes: {error}")
        self._logic.abandon()
        # Only now does rclpy learn that the goal executes: its task ends at once.
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
        goal, messages = handle.request, self._messages
        objects = [self._task.object_or_default(name) for name in goal.objects] or [self._task.default_object]
        await self._wait_until_ready(wait)
        while result.episodes < goal.episodes:
            await self._wait_for_release(wait, goal.stop_on_hold)
            # An episode that was no result is repeated: same seed, same object.
            name = objects[result.episodes % len(objects)]
            plan = EpisodeEvent(
                episode_id=f"{self._numbering.run_id(goal.seed)}/{self._index:06d}",
                task=self._task.name,
                object=name,
                instruction=self._task.instruction(name),
                seed=derive_seed(goal.seed, result.episodes),
            )
            messages.begin(plan)
            self._index += 1
            outcome = await self._one_episode(wait, plan)
            if outcome.is_result:
                self._count(handle, result, outcome)
            if handle.is_cancel_requested:
                raise UserError(f"cancelled after {result.episodes} of {goal.episodes} episodes")
            if outcome.reason == STACK:
                raise UserError(f"{plan.episode_id}: {outcome.detail} The episode does not count.")
            if not outcome.is_result:
                self._log.warning(f"{plan.episode_id}: {outcome.detail}: the episode does not count")
        result.message = f"{result.successes} of {result.episodes} episodes succeeded"

    async def _one_episode(self, wait: GoalWait, plan: EpisodeEvent) -> Outcome:
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
        await self._routine.until(lambda: self._messages.outcome is not None, FOREVER_S)
        assert self._messages.outcome is not None
        return self._messages.outcome

    def _count(self, handle: ServerGoalHandle, result: RunEpisodes.Result, outcome: Outcome) -> None:
        episode_id = self._messages.plan.episode_id
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

    async def _wait_until_ready(self, wait: GoalWait) -> None:
        """Wait until everybody is connected: in lock-step one lost message would stop the clock."""
        try:
            await wait.until(lambda: not self._missing(), self._ready_timeout_s, "not ready")
        except UserError as error:
            raise UserError(f"{error}: {'; '.join(self._missing())}") if self._missing() else error from error
        await self._reset.connect(wait, self._ready_timeout_s)

    def _missing(self) -> list[str]:
        return [*self._missing_in_node(), *self._reset.missing()]

    async def _wait_for_release(self, wait: GoalWait, stop_on_hold: bool) -> None:
        status = self._status
        if not status.gate_latched:
            return
        if stop_on_hold:
            await self._routine.until(lambda: bool(status.gate_reason), SETTLE_S)
            raise UserError(f"the gate latched: {status.gate_reason or 'see gate_status'}")
        self._log.warning("the gate is latched: waiting for its release (gate/hold with hold: false)")
        await wait.until(lambda: not status.gate_latched, FOREVER_S, "", SETTLE_S)
