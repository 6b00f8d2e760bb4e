"""Publishers of `step` and `episode_event`, for the events that EpisodeLogic returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rclpy.node import Node

from rldg_control.episode_logic import EpisodeStart, Event, Outcome, StepRecord
from rldg_msgs.msg import EpisodeEvent, ExecutedAction, Step
from rldg_ros import to_msg
from rldg_ros.qos import EVENTS, STEPS_OUT


class EpisodeMessages:
    """plan: the running or last episode; outcome: how it ended, None while it runs."""

    def __init__(self, node: Node, on_end: Callable[[], None]) -> None:
        self._clock, self._on_end = node.get_clock(), on_end
        self._steps = node.create_publisher(Step, "step", STEPS_OUT)
        self._events = node.create_publisher(EpisodeEvent, "episode_event", EVENTS)
        self._node = node
        self.plan = EpisodeEvent()
        self.outcome: Outcome | None = None

    def begin(self, plan: EpisodeEvent) -> None:
        """Describe the next episode; START follows with its first observation."""
        self.plan, self.outcome = plan, None

    def unmatched_readers(self) -> bool:
        """Return whether a subscriber of `step` is not connected yet."""
        return bool(self._steps.get_subscription_count() < self._node.count_subscribers("step"))

    def publish(self, events: Iterable[Event]) -> None:
        """Publish in the given order."""
        for event in events:
            if isinstance(event, StepRecord):
                self._steps.publish(self._step(event))
            elif isinstance(event, EpisodeStart):
                self.plan.kind = EpisodeEvent.START
                self.plan.first_observation_stamp = to_msg.time(event.first_observation_stamp_ns)
                self.plan.step_count = event.step_count
                self._announce()
            else:
                self.outcome = event
                self.plan.kind = EpisodeEvent.END
                self.plan.step_count, self.plan.steps = event.step_count, event.steps
                self.plan.success, self.plan.reason = event.success, event.reason
                self.plan.terminated, self.plan.truncated = event.terminated, event.truncated
                self._announce()
                self._on_end()

    def _announce(self) -> None:
        self.plan.header.stamp = self._clock.now().to_msg()
        self._events.publish(self.plan)

    def _step(self, record: StepRecord) -> Step:
        plan = self.plan
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
