"""Observation -> feature vector: proprioception as the paper's specialist sees it, plus cached image features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rldg_core.frames import offset_from, rotation_of
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_rl.config import FeatureConfig

Array = NDArray[np.float32]


def multi_scale(value: NDArray[np.float64], scales: tuple[float, ...]) -> NDArray[np.float64]:
    """value / scales[0], clipped to +-3, then tanh(value / s) for every finer scale: (n,) -> (n x len(scales),)."""
    coarse = np.clip(value / scales[0], -3.0, 3.0)
    return np.concatenate([coarse, *(np.tanh(value / scale) for scale in scales[1:])])


def proprioception(observation: Observation, task: Task, config: FeatureConfig) -> Array:
    """Feature vector of the arm: offset of the tcp from the target pose (base axes), twist and wrench in tcp axes.

    float32, each entry O(1), length `proprioception_dim(config)`. Raises ValueError when an entry is not finite.
    """
    offset = offset_from(task.target_pose_base_tcp, observation.pose_base_tcp)
    to_tcp = rotation_of(observation.pose_base_tcp).inv()
    linear = to_tcp.apply(observation.twist_base_tcp[:3]) / config.linear_velocity_scale
    angular = to_tcp.apply(observation.twist_base_tcp[3:]) / config.angular_velocity_scale
    values = np.concatenate(
        [
            multi_scale(offset[:3], config.position_scales_m),
            multi_scale(offset[3:], config.rotation_scales_rad),
            np.clip(linear, -3.0, 3.0),
            np.clip(angular, -3.0, 3.0),
            multi_scale(observation.wrench_tcp[:3], config.force_scales_n),
            multi_scale(observation.wrench_tcp[3:], config.torque_scales_nm),
        ]
    )
    if not np.all(np.isfinite(values)):
        raise ValueError("observation holds a pose, twist or wrench that is not finite")
    return values.astype(np.float32)


def proprioception_dim(config: FeatureConfig) -> int:
    """Length of `proprioception`."""
    scales = config.position_scales_m, config.rotation_scales_rad, config.force_scales_n, config.torque_scales_nm
    return 3 * sum(len(s) for s in scales) + 6


def feature_dim(config: FeatureConfig) -> int:
    """Length of the vector that `feature_function` returns."""
    if config.image_encoder == "none":
        return proprioception_dim(config)
    from rldg_rl.encoder import FEATURE_DIM

    return proprioception_dim(config) + FEATURE_DIM


def feature_function(task: Task, config: FeatureConfig) -> Callable[[Observation], Array]:
    """The function that learner and policy share: Observation -> float32 (feature_dim,).

    Raises UserError when the task has no such camera; the function raises ValueError on a missing or broken image.
    """
    if config.image_encoder == "none":
        return lambda observation: proprioception(observation, task, config)
    from rldg_rl.encoder import image_features

    return lambda observation: np.concatenate(
        [proprioception(observation, task, config), image_features(observation, config.camera)]
    )
