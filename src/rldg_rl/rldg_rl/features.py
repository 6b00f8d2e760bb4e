"""Computes the Inputs of the networks from an Observation: proprioception and the image of one camera (RLDG paper)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.frames import offset_from, rotation_of
from rldg_core.image_codec import decode_jpeg, resize
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_rl.config import FeatureConfig
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.weights import ARM_DIM

Array = NDArray[np.float32]
ToInputs = Callable[[Observation], Inputs]

IMAGE_SIZE = 128
"""Side of the square image that networks see [px] (paper)."""
GRIPPER_OPEN_M = 0.08
"""Width of an open hand, which scales to 1."""


def multi_scale(value: NDArray[np.float64], scales: tuple[float, ...]) -> NDArray[np.float64]:
    """Return value / scales[0], clipped to +-3, and tanh(value / s) for each finer scale s: (n x len(scales),)."""
    coarse = np.clip(value / scales[0], -3.0, 3.0)
    return np.concatenate([coarse, *(np.tanh(value / scale) for scale in scales[1:])])


def proprioception(observation: Observation, task: Task, config: FeatureConfig) -> Array:
    """Return the state of the arm: offset of the tcp from the target pose (base axes), twist and wrench (tcp axes).

    Tasks with a gripper add its width, scaled to -1 closed, 1 open. float32 of length `proprioception_dim`, each entry
    of order 1. Raises ValueError when an entry is not finite.
    """
    if config.proprioception == "none":
        return np.zeros(0, np.float32)
    parts = observation.pose_base_tcp, observation.twist_base_tcp, observation.wrench_tcp
    if not all(np.isfinite(part).all() for part in parts):  # clipping would hide an infinite value
        raise ValueError("observation holds a pose, twist or wrench that is not finite")
    offset = offset_from(task.target_pose_base_tcp, observation.pose_base_tcp)
    to_tcp = rotation_of(observation.pose_base_tcp).inv()
    linear, angular = to_tcp.apply(observation.twist_base_tcp.reshape(2, 3))
    width = [2.0 * observation.gripper_width_m / GRIPPER_OPEN_M - 1.0] if task.action.gripper else []
    values = np.concatenate(
        [
            multi_scale(offset[:3], config.position_scales_m),
            multi_scale(offset[3:], config.rotation_scales_rad),
            multi_scale(linear, (config.linear_velocity_scale,)),
            multi_scale(angular, (config.angular_velocity_scale,)),
            multi_scale(observation.wrench_tcp[:3], config.force_scales_n),
            multi_scale(observation.wrench_tcp[3:], config.torque_scales_nm),
            width,
        ]
    )
    if not np.all(np.isfinite(values)):
        raise ValueError("observation holds a gripper width that is not finite")
    return values.astype(np.float32)


def proprioception_dim(action_dim: int, config: FeatureConfig) -> int:
    """Return the length of `proprioception` for a task whose actions have this length."""
    if config.proprioception == "none":
        return 0
    scales = config.position_scales_m, config.rotation_scales_rad, config.force_scales_n, config.torque_scales_nm
    return 3 * sum(len(s) for s in scales) + 6 + (action_dim > ARM_DIM)


def input_spec(task: Task, config: FeatureConfig) -> InputSpec:
    """Return the shapes of the Inputs of a task. Raises UserError when the frozen encoder cannot be loaded."""
    return input_spec_for(task.action.dim, config)


def input_spec_for(action_dim: int, config: FeatureConfig) -> InputSpec:
    """Return `input_spec` given only the length of the task's actions."""
    state_dim = proprioception_dim(action_dim, config)
    if config.image_encoder == "none":
        return InputSpec(state_dim, None, "float16", 1)
    if config.image_encoder == "small_cnn":
        return InputSpec(state_dim, (IMAGE_SIZE, IMAGE_SIZE, 3), "uint8", 1)
    return InputSpec(state_dim, _encoder(config).feature_shape, "float16", config.crops)


def policy_inputs(task: Task, config: FeatureConfig) -> ToInputs:
    """Return the function that computes the Inputs of a policy.

    state (S,); image: features of the uncropped frame (*image_shape), pixels, or None. Raises UserError when the task
    has no such camera; the function raises ValueError on a missing or broken image and on values that are not finite.
    """
    return _inputs(task, config, "policy")


def stored_inputs(task: Task, config: FeatureConfig) -> ToInputs:
    """Return the function that computes the Inputs that replay stores.

    state (S,); image: features of every crop (crops, *image_shape), where crop 0 is the frame itself, pixels, or None.
    Raises as `policy_inputs`.
    """
    return _inputs(task, config, "replay")


def _inputs(task: Task, config: FeatureConfig, use: Literal["policy", "replay"]) -> ToInputs:
    if config.image_encoder == "none":
        return lambda observation: Inputs(proprioception(observation, task, config), None)
    if config.camera not in task.cameras:
        raise UserError(f"task {task.name}: no camera {config.camera!r}, which features.camera names")
    if config.image_encoder == "small_cnn":
        return lambda observation: Inputs(
            proprioception(observation, task, config), camera_image(observation, config.camera)
        )
    encoder = _encoder(config)

    def acting(observation: Observation) -> Inputs:
        state = proprioception(observation, task, config)
        return Inputs(state, encoder.encode(camera_image(observation, config.camera)[None])[0])

    def storing(observation: Observation) -> Inputs:
        from rldg_rl.encoders.frozen import crops

        state = proprioception(observation, task, config)
        images = crops(camera_image(observation, config.camera), config.crops, observation.stamp_ns)
        return Inputs(state, encoder.encode(images))

    return acting if use == "policy" else storing


def camera_image(observation: Observation, camera: str) -> NDArray[np.uint8]:
    """Return the image (128, 128, 3) uint8 RGB. Raises ValueError when it is missing, broken or not square."""
    if camera not in observation.images:
        raise ValueError(f"observation holds no image of camera {camera!r}")
    image = decode_jpeg(observation.images[camera])
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"image of camera {camera!r} is {image.shape[1]}x{image.shape[0]}, expected a square")
    return resize(image, IMAGE_SIZE)


def _encoder(config: FeatureConfig) -> Any:
    # Imported here, because a policy without images starts faster without JAX.
    from rldg_rl.encoders.loading import FrozenName, load_encoder

    return load_encoder(cast("FrozenName", config.image_encoder), config.encoder_weights)
