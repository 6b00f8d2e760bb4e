"""One episode as arrays, as used by every dataset format (RLDS, LeRobot), the lint and the card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

STATE_DIM = 8
ACTION_DIM = 7
IMAGE_KEY = "image"
"""Key of the primary image, which generalists use."""

METADATA_TYPES: Mapping[str, type] = {
    "file_path": str,
    "episode_id": str,
    "task": str,
    "object": str,
    "source": str,
    "policy_id": str,
    "policy_version": int,
    "seed": str,
    "success": bool,
    "config_hash": str,
    "provenance": str,
}
"""episode_metadata. seed is text: TFDS has no unsigned 64-bit integers on disk. provenance: JSON list of the recordings
it is made of, each {bag, blake3, episode_id, source, policy_id, policy_version, images, gripper, rate_hz, steps[,
relabelled_by]}; images: key -> {camera, view}, view as `rldg_core.task.CameraConfig.view` or None; gripper: whether its
actions had a 7th value; rate_hz: Steps per second that it declares, or else that its stamps show."""


@dataclass(frozen=True)
class Episode:
    """One episode of T + 1 steps; the last step has the final observation and a meaningless action.

    images: key -> T + 1 JPEG files, (H, W, 3) RGB when decoded, "image" first; timestamp_s (T+1,): since the first
    step; state (T+1, 8): tcp in base [m], quaternion xyzw, gripper width [m]; twist (T+1, 6) in base axes
    [m/s, rad/s]; wrench (T+1, 6) in tcp axes [N, N m]; action (T+1, 7): executed delta of the tcp in tcp axes
    [m, rad], gripper 0 closed, 1 open; reward (T+1,) of the transition k -> k+1; metadata: METADATA_TYPES.
    """

    images: Mapping[str, list[bytes]]
    timestamp_s: Float32
    state: Float32
    twist: Float32
    wrench: Float32
    action: Float32
    reward: Float32
    is_first: Bools
    is_last: Bools
    is_terminal: Bools
    instruction: str
    metadata: Mapping[str, Any]

    def __len__(self) -> int:
        """Number of steps, the last one included."""
        return len(self.action)
