"""The gripper's action, learned apart from the arm's: double DQN over {-1 close, 0 keep, 1 open} (HIL-SERL).

For tasks with a gripper the 7th action component comes from here; actor and critics see the first six alone.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from rldg_core.types import GRIPPER_THRESHOLD
from rldg_rl.config import NetworkConfig
from rldg_rl.features import GRIPPER_OPEN_M
from rldg_rl.networks import Params, mlp, mlp_init
from rldg_rl.weights import ARM_DIM, COMMANDS

OPEN_WIDTH_M = 0.9 * GRIPPER_OPEN_M
"""Wider counts as open: 0.9 of the Franka Hand's width (HIL-SERL's wrapper of the USB task)."""


def gripper_init(key: jax.Array, inputs: int, config: NetworkConfig) -> Params:
    """An MLP on the embedding with the value of every command."""
    return mlp_init(key, inputs, config.hidden, COMMANDS)


def command_index(actions: jax.Array) -> jax.Array:
    """(B, 7) -> index of the gripper's command (B,)."""
    return jnp.clip(jnp.round(actions[..., -1]), -1, 1).astype(jnp.int32) + 1


def double_q_target(values: jax.Array, target_values: jax.Array, rewards: jax.Array, discounts: jax.Array) -> jax.Array:
    """reward + discount x target value of the command that the current head prefers; both values (B, 3)."""
    best = values.argmax(-1)
    return rewards + discounts * jnp.take_along_axis(target_values, best[:, None], -1)[:, 0]


def gripper_loss(
    params: Params, embedding: jax.Array, actions: jax.Array, target: jax.Array, activation: str
) -> jax.Array:
    """Mean squared error of the taken command's value: embedding (B, E), actions (B, 7), target (B,)."""
    values = mlp(params, embedding, activation)
    taken = jnp.take_along_axis(values, command_index(actions)[:, None], -1)[:, 0]
    return ((taken - target) ** 2).mean()


def grasp_penalty(action: NDArray[np.float32], gripper_width_m: float, penalty: float) -> float:
    """`penalty` where the command would change the gripper's state, else 0; 0 for actions without a gripper.

    gripper_width_m: measured before the action. Source: HIL-SERL's GripperPenaltyWrapper.
    """
    if len(action) <= ARM_DIM:
        return 0.0
    closes = action[ARM_DIM] < -GRIPPER_THRESHOLD and gripper_width_m > OPEN_WIDTH_M
    opens = action[ARM_DIM] > GRIPPER_THRESHOLD and gripper_width_m <= OPEN_WIDTH_M
    return penalty if closes or opens else 0.0
