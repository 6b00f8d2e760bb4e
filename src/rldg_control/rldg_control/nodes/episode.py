"""episode: joins observation, executed action and reward into `step`, and runs episodes (action `run_episodes`).

Parameters: task, task_dirs, lockstep, run_id (default: seed<seed> in lock-step, else the wall time of the start),
first_episode, first_step (of a resumed run), needs (nodes that must listen before an episode starts),
ready_timeout_s, exact_rewards (real time: rewards carry the stamps of observations; default: the task's reward is the
classifier's), reset_mode (cell or operator, see `resets`), reset_service, joy_topic, start_button, stop_button.
Services: episode/label, episode/reset.
"""

from __future__ import annotations

import sys
from time import monotonic

from rclpy.node import Node
from std_srvs.srv import Trigger

from rldg_control.episode_logic import EpisodeLogic, RewardSample
from rldg_control.nodes.episode_goals import EpisodeGoals, EpisodeRunner, Numbering, Readiness, StackStatus
from rldg_control.nodes.episode_messages import EpisodeMessages
from rldg_control.nodes.resets import CellReset, OperatorReset, Reset
from rldg_control.nodes.waiting import Routine
from rldg_control.observe import NO_CLOCK
from rldg_control.pace.rules import RULES
from rldg_core.from_msg import stamp_ns
from rldg_core.task import Task
from rldg_msgs.msg import ExecutedAction, Observation, Reward
from rldg_msgs.srv import LabelEpisode
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.qos import STREAM
from rldg_ros.reporting import OK, Report, Reporter, steady_timer
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe

WATCH_S = 0.1


class EpisodeNode(Node):
    """The episode manager; see the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("episode")
        task = task_parameter(self)
        self._pace = pace_parameter(self)
        needs = parameter(self, "needs", ["gate"], "Nodes that must listen before an episode starts.")
        self._needs = [str(n) for n in needs if n]
        self._rewarded = task.reward.source != "operator"
        self._logic = self._make_logic(task)
        self._routine = Routine(self)
        self._messages = EpisodeMessages(self, on_end=self._routine.check)
        self._status = StackStatus(self)
        reset = self._make_reset(task)
        run_id = str(parameter(self, "run_id", "", "Prefix of episode ids; empty: seed or time of the start."))
        first = parameter(self, "first_episode", 0, "Number of the first episode, of a resumed run.", low=0)
        timeout_s = parameter(self, "ready_timeout_s", 60.0, "How long a goal waits for these nodes [s].", low=0.0)
        default_run_id = RULES[self._pace.name].run_id
        readiness = Readiness(self._missing, float(timeout_s))
        runner = EpisodeRunner(self._routine, self._logic, self._messages, self._status, reset, readiness)
        numbering = Numbering(int(first), lambda seed: run_id or default_run_id(seed))
        self._goals = EpisodeGoals(self, runner, task, numbering)
        subscribe(self, Observation, "observation", self._on_observation, STREAM)
        subscribe(self, ExecutedAction, "executed_action", self._on_executed, STREAM)
        if self._rewarded:
            subscribe(self, Reward, "reward", self._on_reward, STREAM)
        self.create_service(LabelEpisode, "episode/label", self._on_label)
        self.create_service(Trigger, "episode/reset", lambda _request, response: self._on_reset(reset, response))
        steady_timer(self, WATCH_S, lambda: self._messages.publish(self._logic.on_time(monotonic())))
        self._reporter = Reporter(self, self._report)

    def _make_logic(self, task: Task) -> EpisodeLogic:
        exact = parameter(
            self,
            "exact_rewards",
            task.reward.source == "classifier",
            "In real time, rewards carry the stamps of observations; the default depends on the task.",
        )
        steps = RULES[self._pace.name].steps(task.period_s, bool(exact))
        logic = EpisodeLogic(task.episode.max_steps, self._rewarded, steps)
        first = parameter(self, "first_step", 0, "step_count of the first Step, of a resumed run.", low=0)
        logic.step_count = int(first)
        return logic

    def _make_reset(self, task: Task) -> Reset:
        mode = parameter(
            self, "reset_mode", "cell", "Who resets the scene: cell, or a person.", choices=("cell", "operator")
        )
        buttons = (
            self._button("start_button", 0, "starts an episode and labels it a success"),
            self._button("stop_button", 1, "labels an episode a failure and ends a goal"),
        )
        if mode == "cell":
            return CellReset(self, self._routine)
        return OperatorReset(self, self._logic, task.reset, self._status.observer, buttons)

    def _button(self, name: str, default: int, effect: str) -> int:
        return int(parameter(self, name, default, f"Index of the button that {effect}; -1: none.", low=-1, high=31))

    # --- inputs -------------------------------------------------------------------------------------

    def _on_observation(self, message: Observation) -> None:
        events = self._logic.on_observation(stamp_ns(message.header.stamp), message, monotonic())
        self._messages.publish(events)

    def _on_executed(self, message: ExecutedAction) -> None:
        # A hold that a policy requested has its id, and the episode continues; a hold without an id is a latch of the
        # gate, which ends the episode.
        latched = message.source == ExecutedAction.HOLD and not message.policy_id
        self._status.gate_latched |= latched
        stamp = stamp_ns(message.observation_stamp)
        self._messages.publish(self._logic.on_executed(stamp, message, latched, monotonic()))

    def _on_reward(self, message: Reward) -> None:
        reward = RewardSample(message.success, message.failure)
        self._messages.publish(self._logic.on_reward(stamp_ns(message.header.stamp), reward, monotonic()))

    def _on_label(self, request: LabelEpisode.Request, response: LabelEpisode.Response) -> LabelEpisode.Response:
        running = self._messages.plan.episode_id if self._logic.running else ""
        if request.episode_id not in ("", running):
            response.message = f"episode {request.episode_id} is not running; {running or 'none'} is"
        else:
            response.accepted = self._logic.label(request.success)
            response.message = f"labelled {running}" if response.accepted else "no episode is running"
        return response

    def _on_reset(self, reset: Reset, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = reset.confirm()
        return response

    # --- state --------------------------------------------------------------------------------------

    def _missing(self) -> list[str]:
        """Return one line for each missing connection of an episode.

        STREAM and EVENTS also reach late subscribers; the subscribers of `step` must be connected from the start.
        """
        if not self._pace.clock_runs(self.get_clock()):
            return [NO_CLOCK]
        topics = ["observation", "executed_action", *(["reward"] if self._rewarded else [])]
        lines = [f"nobody publishes {topic}" for topic in topics if not self.count_publishers(topic)]
        listeners = [
            info.node_name
            for topic in ("episode_event", "step")
            for info in self.get_subscriptions_info_by_topic(self.resolve_topic_name(topic))
        ]
        lines += [f"node {name} does not listen" for name in self._needs if name not in listeners]
        if self._messages.unmatched_readers():
            lines.append("a reader of step is not connected yet")
        return lines

    def stop(self) -> None:
        """End the running episode, so that a recorder can close its bag."""
        self._messages.publish(self._logic.close("the episode manager stopped", monotonic()))

    def _report(self) -> Report:
        logic = self._logic
        values = {
            "episode_id": self._messages.plan.episode_id,
            "transitions": str(logic.step_count),
            "skipped_observations": str(logic.skipped_observations),
            "missing_rewards": str(logic.missing_rewards),
        }
        return Report(OK, "running" if logic.running else "waiting" if self._goals.busy else "idle", values)


def main() -> None:
    """Run the node."""
    sys.exit(run_node(EpisodeNode, on_stop=EpisodeNode.stop))
