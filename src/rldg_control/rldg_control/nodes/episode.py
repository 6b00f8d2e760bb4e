"""episode: joins observation, executed action and reward into `step`, and runs episodes (action `run_episodes`).

Parameters: task, lockstep, run_id (default: seed<seed> in lock-step, else the wall time of the start),
first_episode, first_step (of a resumed run), needs (nodes that must listen before an episode starts),
ready_timeout_s, exact_rewards (real time: rewards carry the stamps of observations; default: the task's reward is the
classifier's), reset_mode, reset_service, joy_topic, start_button, stop_button. Services: episode/label, episode/reset.

reset_mode `cell`: calls cell/reset before each episode. reset_mode `operator` (hardware): a person resets the
scene and brings the arm to the start pose (the gate lets the SpaceMouse drive between episodes), then presses
joy button 0 or calls episode/reset; the pose is checked. While the episode runs, button 0 labels it a success
and button 1 a failure; while it is awaited, button 1 ends the goal.

Only what says something about the policy counts in the result: ends by the task, a label or the time limit. An
episode that a stop or a latch of the gate interrupted is repeated after the release (or ends the goal, stop_on_hold);
one that a silent part of the stack interrupted ends the goal with the cause.
"""

from __future__ import annotations

import sys
import time
from math import inf
from time import monotonic
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.client import Client
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from rldg_control.episode_logic import STACK, EpisodeLogic, Event, Outcome, Started, StepRecord, Verdict, start_fault
from rldg_control.nodes.reporting import OK, Fault, Report, Reporter, steady_timer
from rldg_control.nodes.waiting import Routine
from rldg_control.observe import NO_CLOCK
from rldg_control.pace.lock_step import LockStepSteps
from rldg_control.pace.real_time import RealTimeSteps
from rldg_core.errors import UserError
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_core.seeding import derive_seed
from rldg_msgs.action import RunEpisodes
from rldg_msgs.msg import EpisodeEvent, ExecutedAction, GateStatus, Observation, ObserverStatus, Reward, Step
from rldg_msgs.srv import LabelEpisode, ResetCell
from rldg_ros import to_msg
from rldg_ros.log import Log
from rldg_ros.parameters import lockstep_parameter, parameter, task_parameter
from rldg_ros.qos import EVENTS, LATCHED, STEPS_OUT, STREAM
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe
from rldg_ros.vendors import Changes, PolledTopics, vendor_topic

SETTLE_S = 0.5
"""A released gate must have stayed so for this long."""
ASK_AGAIN_S = 0.5
"""An answer that is sent before its server knows this client is lost: what may be repeated is, after this time."""
NOBODY = "no such object"
"""A reset with it is refused and moves nothing."""
FIRST_OBSERVATION_S = 30.0
OBSERVER_FAULT_S = 10.0
"""A fault that the observer has reported for so long after a reset does not go away by waiting."""
RESET_S = 60.0
FOREVER_S = 1e9
WATCH_S = 0.1


class Episode(Node):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__("episode")
        self._task = task_parameter(self)
        self._lockstep = lockstep_parameter(self)
        self._run_id = str(parameter(self, "run_id", "", "Prefix of episode ids; empty: seed or time of the start."))
        needs = parameter(self, "needs", ["gate"], "Nodes that must listen before an episode starts.")
        self._needs = [str(n) for n in needs if n]
        self._ready_timeout_s = float(
            parameter(self, "ready_timeout_s", 60.0, "How long a goal waits for those nodes [s].", low=0.0)
        )
        self._reset_mode = str(
            parameter(
                self, "reset_mode", "cell", "Who resets the scene: cell or a person.", choices=("cell", "operator")
            )
        )
        self._buttons = (
            self._button("start_button", 0, "starts an episode and labels it a success"),
            self._button("stop_button", 1, "labels an episode a failure and ends a goal"),
        )
        self._pressed: tuple[bool, bool] = (False, False)
        self._rewarded = self._task.reward.source != "operator"
        task = self._task
        exact = bool(
            parameter(
                self,
                "exact_rewards",
                task.reward.source == "classifier",
                "In real time, rewards carry the stamps of observations; the default depends on the task.",
            )
        )
        pace = LockStepSteps(task.period_s) if self._lockstep else RealTimeSteps(task.period_s, exact)
        self._logic = EpisodeLogic(task.episode.max_steps, self._rewarded, pace)
        self._logic.step_count = int(
            parameter(self, "first_step", 0, "step_count of the first Step, of a resumed run.", low=0)
        )
        # Of the next episode, over all goals.
        self._index = int(parameter(self, "first_episode", 0, "Number of the first episode, of a resumed run.", low=0))
        self._busy = self._met_cell = False
        self._gate_latched, self._gate_reason = False, ""
        self._observer = Fault()
        self._awaits_reset = self._reset_done = self._give_up = False
        self._plan = EpisodeEvent()
        self._outcome: Outcome | None = None
        self._started_at = time.strftime("%Y%m%d-%H%M%S")

        self._steps = self.create_publisher(Step, "step", STEPS_OUT)
        self._events = self.create_publisher(EpisodeEvent, "episode_event", EVENTS)
        subscribe(self, Observation, "observation", self._on_observation, STREAM)
        subscribe(self, ExecutedAction, "executed_action", self._on_executed, STREAM)
        if self._rewarded:
            subscribe(self, Reward, "reward", self._on_reward, STREAM)
        subscribe(self, GateStatus, "gate_status", self._on_gate, LATCHED)
        subscribe(self, ObserverStatus, "observer_status", self._on_observer, LATCHED)
        self.create_service(LabelEpisode, "episode/label", self._on_label)
        self.create_service(Trigger, "episode/reset", self._on_reset_done)
        self._reset_client = None
        if self._reset_mode == "cell":
            service = str(parameter(self, "reset_service", "cell/reset", "Service that resets the cell."))
            self._reset_client = self.create_client(ResetCell, service)
        else:
            joy_topic = str(parameter(self, "joy_topic", "spacenav/joy", "Buttons of the SpaceMouse."))
            # Presses and releases are acted on once each, so that a driver that ends holds nothing down.
            PolledTopics(self).add(Joy, vendor_topic(self, joy_topic), Changes(Joy, self._on_joy, lambda: None))
        self._server = ActionServer(
            self,
            RunEpisodes,
            "run_episodes",
            self._finish,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )
        self._result, self._failed = RunEpisodes.Result(), False
        self._routine = Routine(self)
        steady_timer(self, WATCH_S, lambda: self._publish(self._logic.on_time(monotonic())))
        self._reporter = Reporter(self, self._report)

    def _button(self, name: str, default: int, effect: str) -> int:
        return int(parameter(self, name, default, f"Index of the button that {effect}; -1: none.", low=-1, high=31))

    # --- the hot path -------------------------------------------------------------------------------

    def _on_observation(self, message: Observation) -> None:
        self._publish(self._logic.on_observation(stamp_ns(message.header.stamp), message, monotonic()))

    def _on_executed(self, message: ExecutedAction) -> None:
        # A hold that a policy asked for (its chunk had run out) names the policy; the gate's own is its last word.
        latched = message.source == ExecutedAction.HOLD and not message.policy_id
        self._gate_latched |= latched
        stamp = stamp_ns(message.observation_stamp)
        self._publish(self._logic.on_executed(stamp, message, latched, monotonic()))

    def _on_reward(self, message: Reward) -> None:
        verdict = Verdict(message.success, message.failure)
        self._publish(self._logic.on_reward(stamp_ns(message.header.stamp), verdict, monotonic()))

    def _publish(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StepRecord):
                self._steps.publish(self._step(event))
            elif isinstance(event, Started):
                self._plan.kind = EpisodeEvent.START
                self._plan.first_observation_stamp = to_msg.time(event.first_observation_stamp_ns)
                self._plan.step_count = event.step_count
                self._announce()
            else:
                self._outcome = event
                self._plan.kind = EpisodeEvent.END
                self._plan.step_count, self._plan.steps = event.step_count, event.steps
                self._plan.success, self._plan.reason = event.success, event.reason
                self._plan.terminated, self._plan.truncated = event.terminated, event.truncated
                self._announce()
                self._routine.look()

    def _announce(self) -> None:
        self._plan.header.stamp = self.get_clock().now().to_msg()
        self._events.publish(self._plan)

    def _step(self, record: StepRecord) -> Step:
        plan = self._plan
        return Step(
            header=record.observation.header,
            episode_id=plan.episode_id,
            index=record.index,
            step_count=record.step_count,
            task=plan.task,
            object=plan.object,
            instruction=plan.instruction,
            seed=plan.seed,
            observation=record.observation,
            action=record.action or ExecutedAction(observation_stamp=record.observation.header.stamp),
            reward=record.reward,
            terminated=record.terminated,
            truncated=record.truncated,
            is_first=record.index == 0,
            is_last=record.is_last,
            success=record.success,
        )

    # --- people -------------------------------------------------------------------------------------

    def _on_label(self, request: LabelEpisode.Request, response: LabelEpisode.Response) -> LabelEpisode.Response:
        running = self._plan.episode_id if self._logic.running else ""
        if request.episode_id not in ("", running):
            response.message = f"episode {request.episode_id} is not running; {running or 'none'} is"
        else:
            response.accepted = self._logic.label(request.success)
            response.message = f"labelled {running}" if response.accepted else "no episode is running"
        return response

    def _on_reset_done(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._confirm_reset()
        return response

    def _confirm_reset(self) -> tuple[bool, str]:
        """The operator says that scene and arm are ready."""
        if not self._awaits_reset:
            return False, "no episode is waiting for its reset"
        newest = self._logic.newest_observation()
        if newest is None:
            return False, f"no observation{self._observer.because() or ': is the observer running?'}"
        fault = start_fault(pose_array(newest.pose_base_tcp), self._task.reset)
        self._reset_done = not fault
        return not fault, fault or "the episode starts"

    def _on_joy(self, message: Joy) -> None:
        was, now = (
            self._pressed,
            tuple(0 <= b < len(message.buttons) and bool(message.buttons[b]) for b in self._buttons),
        )
        self._pressed = (now[0], now[1])
        start, stop = now[0] and not was[0], now[1] and not was[1]
        if self._logic.running and (start or stop):
            self._logic.label(success=start)
        elif start:
            Log(self).info(f"start button: {self._confirm_reset()[1]}")
        elif stop and self._awaits_reset:
            # Only then: a press that came a moment too late for the episode would end the goal much later.
            self._give_up = True

    def _on_gate(self, message: GateStatus) -> None:
        self._gate_latched, self._gate_reason = message.phase == GateStatus.LATCHED, message.reason

    def _on_observer(self, message: ObserverStatus) -> None:
        # While drivers start, the observer reports no fault, but says what it has not received.
        self._observer.update(message.missing or message.fault, monotonic())

    # --- run_episodes -------------------------------------------------------------------------------

    def _on_goal(self, goal: RunEpisodes.Goal) -> GoalResponse:
        if goal.episodes == 0:  # a client tests whether answers reach it (docs/explanation/architecture.md, Clients)
            return GoalResponse.REJECT
        if self._busy:
            Log(self).warning("run_episodes: rejected, another goal is running (one at a time)")
            return GoalResponse.REJECT
        self._busy = True
        return GoalResponse.ACCEPT

    def _on_cancel(self, _handle: ServerGoalHandle) -> CancelResponse:
        self._logic.stop("cancelled", monotonic())
        return CancelResponse.ACCEPT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        self._routine.start(self._execute(handle))

    async def _execute(self, handle: ServerGoalHandle) -> None:
        self._give_up = False
        self._result, self._failed = RunEpisodes.Result(), False
        try:
            await self._run(handle, self._result)
        except UserError as error:
            self._result.message, self._failed = str(error), True
            Log(self).warning(f"run_episodes: {error}")
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
        self._busy = False
        return self._result

    async def _run(self, handle: ServerGoalHandle, result: RunEpisodes.Result) -> None:
        goal = handle.request
        objects = [self._task.object_or_default(name) for name in goal.objects] or [self._task.default_object]
        await self._wait_until_ready(handle)
        while result.episodes < goal.episodes:
            await self._wait_for_release(handle, goal.stop_on_hold)
            # An episode that was no result is repeated: same seed, same object.
            seed = derive_seed(goal.seed, result.episodes)
            name = objects[result.episodes % len(objects)]
            run_id = self._run_id or (f"seed{goal.seed}" if self._lockstep else self._started_at)
            self._outcome = None
            self._plan = EpisodeEvent(
                episode_id=f"{run_id}/{self._index:06d}",
                task=self._task.name,
                object=name,
                instruction=self._task.instruction(name),
                seed=seed,
            )
            self._index += 1
            outcome = await self._one_episode(handle, seed, name)
            if outcome.is_result:
                self._count(handle, result, outcome)
            if handle.is_cancel_requested:
                raise UserError(f"cancelled after {result.episodes} of {goal.episodes} episodes")
            if outcome.reason == STACK:
                raise UserError(f"{self._plan.episode_id}: {outcome.detail} The episode does not count.")
            if not outcome.is_result:
                Log(self).warning(f"{self._plan.episode_id}: {outcome.detail}: the episode does not count")
        result.message = f"{result.successes} of {result.episodes} episodes succeeded"

    async def _one_episode(self, handle: ServerGoalHandle, seed: int, object_name: str) -> Outcome:
        first_ns = await self._reset(handle, seed, object_name)
        self._publish(self._logic.begin(first_ns, monotonic()))
        reset_s = monotonic()
        started = await self._routine.until(
            lambda: (
                handle.is_cancel_requested
                or self._logic.running
                or self._ended()
                or self._observer.lasts(OBSERVER_FAULT_S, since_s=reset_s)
            ),
            FIRST_OBSERVATION_S,
        )
        if handle.is_cancel_requested:
            raise UserError("cancelled")
        if not started or not (self._logic.running or self._ended()):
            raise UserError(f"no observation after the reset{self._observer.because()}")
        await self._routine.until(self._ended, FOREVER_S)
        assert self._outcome is not None
        return self._outcome

    def _count(self, handle: ServerGoalHandle, result: RunEpisodes.Result, outcome: Outcome) -> None:
        result.episodes += 1
        result.successes += int(outcome.success)
        result.success = [*result.success, outcome.success]
        result.steps = [*result.steps, outcome.steps]
        result.episode_ids = [*result.episode_ids, self._plan.episode_id]
        handle.publish_feedback(
            RunEpisodes.Feedback(
                episode=result.episodes,
                successes=result.successes,
                steps=outcome.steps,
                episode_id=self._plan.episode_id,
            )
        )

    def _ended(self) -> bool:
        return self._outcome is not None

    async def _until(self, handle, condition, timeout_s: float, complaint: str, stable_s: float = 0.0) -> None:
        """Wait for a condition; raises UserError on time-out (with `complaint`) and on cancel."""
        done = await self._routine.until(lambda: handle.is_cancel_requested or condition(), timeout_s, stable_s)
        if handle.is_cancel_requested:
            raise UserError("cancelled")
        if not done:
            raise UserError(complaint)

    async def _wait_until_ready(self, handle: ServerGoalHandle) -> None:
        """Wait until everybody is connected: in lock-step one lost message would stop the clock."""
        try:
            await self._until(handle, lambda: not self._missing(), self._ready_timeout_s, "not ready")
        except UserError as error:
            raise UserError(f"{error}: {'; '.join(self._missing())}") if self._missing() else error from error
        if self._reset_client and not self._met_cell:
            await self._meet_cell(handle, self._reset_client)
            self._met_cell = True

    async def _meet_cell(self, handle: ServerGoalHandle, client: Client[Any, Any]) -> None:
        """Wait until the cell answers a request that it refuses: a reset must not be sent twice (lock-step)."""
        asked: list[Future[Any]] = []
        asked_s = -inf

        def answered() -> bool:
            nonlocal asked_s
            if monotonic() - asked_s > ASK_AGAIN_S:
                asked_s = monotonic()
                asked.append(client.call_async(ResetCell.Request(object=NOBODY)))
                asked[-1].add_done_callback(lambda _future: self._routine.look())
            return any(future.done() for future in asked)

        try:
            await self._until(
                handle,
                answered,
                self._ready_timeout_s,
                f"{client.srv_name}: no answer within {self._ready_timeout_s:.0f} s",
            )
        finally:
            for future in asked:
                client.remove_pending_request(future)

    def _missing(self) -> list[str]:
        """One line for each connection that an episode needs and that is not there.

        A topic of STREAM or EVENTS reaches late subscribers, too; `step` must have its readers from the start.
        """
        if not self._lockstep and self.get_clock().now().nanoseconds == 0:
            return [NO_CLOCK]
        topics = ["observation", "executed_action", *(["reward"] if self._rewarded else [])]
        lines = [f"nobody publishes {topic}" for topic in topics if not self.count_publishers(topic)]
        listeners = [
            info.node_name
            for topic in ("episode_event", "step")
            for info in self.get_subscriptions_info_by_topic(self.resolve_topic_name(topic))
        ]
        lines += [f"node {name} does not listen" for name in self._needs if name not in listeners]
        if self._steps.get_subscription_count() < self.count_subscribers("step"):
            lines.append("a reader of step is not connected yet")
        if self._reset_client and not self._reset_client.service_is_ready():
            lines.append(f"nobody offers {self._reset_client.srv_name}")
        return lines

    async def _wait_for_release(self, handle: ServerGoalHandle, stop_on_hold: bool) -> None:
        if self._gate_latched:
            if stop_on_hold:
                await self._routine.until(lambda: bool(self._gate_reason), SETTLE_S)
                raise UserError(f"the gate latched: {self._gate_reason or 'see gate_status'}")
            Log(self).warning("the gate is latched: waiting for its release (gate/hold with hold: false)")
            await self._until(handle, lambda: not self._gate_latched, FOREVER_S, "", SETTLE_S)

    async def _reset(self, handle: ServerGoalHandle, seed: int, object_name: str) -> int:
        """Bring the scene to its start; return the stamp from which on observations count [ns]."""
        if self._reset_client is None:
            self._awaits_reset, self._reset_done = True, False
            Log(self).info(
                f"{self._plan.episode_id}: reset the scene ({object_name}), move the arm to the start pose, "
                "then press the start button or call episode/reset"
            )
            try:
                await self._until(handle, lambda: self._reset_done or self._give_up, FOREVER_S, "")
            finally:
                self._awaits_reset = False
            if self._give_up:
                raise UserError("ended by the operator")
            newest = self._logic.newest_observation()
            return stamp_ns(newest.header.stamp) + 1
        future = self._reset_client.call_async(ResetCell.Request(seed=seed, object=object_name))
        future.add_done_callback(lambda _future: self._routine.look())
        await self._until(
            handle, future.done, RESET_S, f"{self._reset_client.srv_name}: no answer within {RESET_S:.0f} s"
        )
        response = future.result()
        if not response.success:
            raise UserError(f"{self._reset_client.srv_name}: {response.message}")
        return stamp_ns(response.stamp)

    # --- end ----------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Close the open episode, so that a recorder can close its bag."""
        self._publish(self._logic.close("the episode manager stopped", monotonic()))

    def _report(self) -> Report:
        logic = self._logic
        values = {
            "episode_id": self._plan.episode_id,
            "transitions": str(logic.step_count),
            "skipped_observations": str(logic.skipped_observations),
            "missing_rewards": str(logic.missing_rewards),
        }
        return Report(OK, "running" if logic.running else "waiting" if self._busy else "idle", values)


def main() -> None:
    """Console script."""
    sys.exit(run_node(Episode, on_stop=Episode.stop))
