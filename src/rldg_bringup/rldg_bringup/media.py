"""GIFs of episodes from the wrist camera and the scene camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from sensor_msgs.msg import Image as ImageMsg

from rldg_bringup.client import StackClient
from rldg_core.files import writing_aside
from rldg_core.image_codec import decode_jpeg
from rldg_msgs.msg import Observation
from rldg_ros import qos

Frame = NDArray[np.uint8]


def write_gif(path: Path, frames: Sequence[Frame], fps: float) -> None:
    """Write (H, W, 3) uint8 frames as a looping GIF. Raises ValueError without frames."""
    if not frames:
        raise ValueError(f"{path}: no frames")
    images = [PillowImage.fromarray(f).quantize(128) for f in frames]
    with writing_aside(path) as aside:
        images[0].save(
            aside,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=round(1000 / fps),
            loop=0,
            optimize=True,
        )


class FrameCollector:
    """Collect the images of the wrist camera, as the policy sees them, and of the scene camera while episodes run."""

    def __init__(self, client: StackClient, scene_topic: str) -> None:
        self.wrist: list[Frame] = []
        self.scene: list[Frame] = []
        node = client.node
        self._node = node
        self._subscriptions: list[Any] = [
            node.create_subscription(Observation, "observation", self._on_observation, qos.STEPS),
            node.create_subscription(ImageMsg, scene_topic, self._on_scene, qos.STEPS),
        ]

    def _on_observation(self, message: Observation) -> None:
        self.wrist.append(decode_jpeg(bytes(memoryview(message.images[0].data))))

    def _on_scene(self, message: ImageMsg) -> None:
        self.scene.append(np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3))

    def take(self) -> tuple[list[Frame], list[Frame]]:
        """Return the (wrist, scene) images collected since the last call."""
        taken = self.wrist, self.scene
        self.wrist, self.scene = [], []
        return taken

    def close(self) -> None:
        """Destroy the subscriptions."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
