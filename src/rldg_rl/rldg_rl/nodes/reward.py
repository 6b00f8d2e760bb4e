"""Node `reward`: publishes the reward classifier's result for every observation. It decides with rldg_rl.classifier.

Parameters: task, task_dirs, lockstep, classifier (folder), consecutive_frames (0: the task's). Each observation is
answered once and at once, with its stamp: in lock-step `episode` waits for the answer. The result depends on stamps and
images, not on the time of arrival. An image that cannot be read counts as a frame without success and is reported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic

from rclpy.node import Node

from rldg_core import from_msg
from rldg_msgs.msg import EpisodeEvent, Observation, Reward
from rldg_rl.classifier.reward import RewardClassifier, SuccessJudge
from rldg_rl.runtime import use_one_core
from rldg_ros import qos
from rldg_ros.log import Log
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, required, task_parameter
from rldg_ros.reporting import OK, Report, Reporter
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import refusals, subscribe


class RewardNode(Node):  # type: ignore[misc]
    """Publishes a Reward for every Observation."""

    def __init__(self) -> None:
        super().__init__("reward")
        task = task_parameter(self)
        pace_parameter(self)  # declared like everywhere; the node does the same in both paces
        name = str(parameter(self, "classifier", "", "Folder of the reward classifier."))
        folder = Path(required(name, "classifier"))
        consecutive_frames = parameter(
            self, "consecutive_frames", 0, "Frames of success in a row that end an episode; 0: the task's.", low=0
        )
        consecutive_frames = int(consecutive_frames) or task.reward.consecutive_frames
        classifier = RewardClassifier.load(folder, task)
        self._judge = SuccessJudge(classifier, task, consecutive_frames)
        self._source = classifier.identity
        self._answered_ns = -1
        self._received_s = monotonic()
        self._judged, self._newest = 0, Reward()
        self._publisher = self.create_publisher(Reward, "reward", qos.STREAM)
        subscribe(self, Observation, "observation", self._on_observation, qos.STREAM)
        subscribe(self, EpisodeEvent, "episode_event", self._on_event, qos.EVENTS)
        log = Log(self)
        log.info(f"{self._source}: threshold {classifier.threshold:.3f}, {consecutive_frames} frames in a row")
        if task.default_object not in classifier.saved.objects:
            known = ", ".join(classifier.saved.objects) or "unnamed objects"
            log.warning(f"{folder}: trained on {known}, not on {task.default_object}")
        Reporter(self, self._report, log_changes=False)

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind == EpisodeEvent.START:
            self._judge.start(from_msg.stamp_ns(message.first_observation_stamp))

    def _on_observation(self, message: Observation) -> None:
        stamp_ns = from_msg.stamp_ns(message.header.stamp)
        if stamp_ns <= self._answered_ns:
            return
        self._answered_ns, self._received_s = stamp_ns, monotonic()
        reward = Reward(header=message.header, source=self._source)
        try:
            judgement = self._judge.judge(from_msg.observation(message))
            reward.probability, reward.success = judgement.probability, judgement.success
        except ValueError as error:
            refusals(self).add("observation", str(error))
        self._publisher.publish(reward)
        self._judged, self._newest = self._judged + 1, reward

    def _report(self) -> Report:
        values = {"judged": str(self._judged)}
        if self._judged:
            values["newest_observation_age_s"] = f"{monotonic() - self._received_s:.1f}"
            values["newest_probability"] = f"{self._newest.probability:.3f}"
        return Report(OK, f"judging with {self._source}", values)


def main() -> None:
    """Entry point."""
    use_one_core()
    sys.exit(run_node(RewardNode))


if __name__ == "__main__":
    main()
