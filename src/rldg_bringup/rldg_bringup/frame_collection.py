"""Labelled frames for a reward classifier from a running stack."""

from __future__ import annotations

import time

from sensor_msgs.msg import Joy

from rldg_bringup.client import StackClient
from rldg_control.teleop_logic import HELD_S
from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_msgs.msg import EpisodeEvent, Observation
from rldg_rl.classifier.collecting import Collector


class FrameCollection:
    """Pass the images of a stack to a collector, each with the state of the success button.

    joy_topic: relative to the namespace of the client; button: index in `Joy.buttons`.
    """

    def __init__(self, client: StackClient, collector: Collector, camera: str, joy_topic: str, button: int) -> None:
        self._collector, self._camera, self._button = collector, camera, button
        self._pressed = False
        self._joy_time_s = 0.0
        self._episode = EpisodeEvent(kind=EpisodeEvent.END)
        client.listen_to_driver(Joy, joy_topic, self._on_joy, self._on_same_joy)
        client.node.create_subscription(EpisodeEvent, "episode_event", self._on_event, 10)
        client.node.create_subscription(Observation, "observation", self._on_observation, 10)

    def _on_joy(self, message: Joy) -> None:
        self._pressed = self._button < len(message.buttons) and bool(message.buttons[self._button])
        self._on_same_joy()

    def _on_same_joy(self) -> None:
        self._joy_time_s = time.monotonic()

    def _on_event(self, message: EpisodeEvent) -> None:
        self._episode = message

    def _on_observation(self, message: Observation) -> None:
        observation = from_msg.observation(message)
        if self._camera not in observation.images:
            raise UserError(f"topic observation: no image of camera {self._camera!r}")
        episode = self._episode
        running = episode.kind == EpisodeEvent.START
        # A driver that ended with the button pressed would mark every later frame as a success.
        marked = self._pressed and time.monotonic() - self._joy_time_s <= HELD_S
        self._collector.take(
            observation.stamp_ns,
            observation.images[self._camera],
            marked,
            episode.episode_id if running else "",
            episode.object,
        )
