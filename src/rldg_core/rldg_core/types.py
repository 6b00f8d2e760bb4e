"""Data types of the loop without ROS: Observation, ExecutedAction, Step.

Each mirrors the message of the same name in rldg_msgs; the .msg files hold the full comments.
`rldg_core.from_msg` builds them from messages (live or read from a bag).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

GRIPPER_THRESHOLD = 0.5
"""Gripper component of an action: above this value it opens, below its negative it closes, in between it holds."""


class Source(IntEnum):
    """Origin of an action (ExecutedAction.source)."""

    NONE = 0
    POLICY = 1
    HUMAN = 2
    SCRIPTED = 3
    HOLD = 4


@dataclass(frozen=True)
class Observation:
    """Input of a policy at one tick.

    images: camera name -> JPEG bytes (square, cropped, resized); pose_base_tcp (7,) [m, xyzw];
    twist_base_tcp (6,) in base axes [m/s, rad/s]; wrench_tcp (6,) in tcp axes [N, N m];
    joint_positions (7,) or (0,) [rad]; gripper_width_m may be NaN.
    """

    stamp_ns: int
    images: Mapping[str, bytes]
    pose_base_tcp: Float64
    twist_base_tcp: Float64
    wrench_tcp: Float64
    joint_positions: Float64
    gripper_width_m: float


@dataclass(frozen=True)
class ExecutedAction:
    """Action executed by the gate in response to the observation at `observation_stamp_ns`."""

    observation_stamp_ns: int
    requested: Float32
    executed: Float32
    source: Source
    action_clipped: bool = False
    box_clipped: bool = False
    policy_id: str = ""
    policy_version: int = 0


@dataclass(frozen=True)
class Step:
    """One transition; see Step.msg. `action.source` is NONE on the last Step."""

    episode_id: str
    index: int
    step_count: int
    task: str
    object: str
    instruction: str
    seed: int
    observation: Observation
    action: ExecutedAction
    reward: float
    terminated: bool
    truncated: bool
    is_first: bool
    is_last: bool
    success: bool
