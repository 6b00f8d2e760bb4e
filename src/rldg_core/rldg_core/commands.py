"""Turn an action into a target pose: the rule of the gate, which relabelling applies as well."""

from __future__ import annotations

import numpy as np

from rldg_core.frames import SafetyBox, compose_delta, delta_between
from rldg_core.task import ActionConfig
from rldg_core.types import Float32, Float64


def command_of(
    asked_action: Float32, pose_base_tcp: Float64, action: ActionConfig, box: SafetyBox
) -> tuple[Float64, Float32, bool, bool]:
    """Action -> (target_base_tcp inside the box, executed in [-1, 1], action_clipped, box_clipped).

    The target is the measured pose composed with the scaled delta, clipped to the box. `executed` is
    the delta from the measured pose to that target. When the arm was measured outside the box by more
    than one unit of action, the way back exceeds [-1, 1]: the target is then still inside the box (the
    controller's reference clip limits the speed) and `executed` saturates at +-1 with box_clipped set.
    """
    limited = np.clip(asked_action, -1.0, 1.0).astype(np.float32)
    action_clipped = bool(np.any(limited != asked_action))
    target, box_clipped = box.clip(compose_delta(pose_base_tcp, action.to_delta_tcp(limited)))
    executed = limited
    if box_clipped:
        delta = action.from_delta_tcp(delta_between(pose_base_tcp, target))
        executed = np.concatenate([np.clip(delta, -1.0, 1.0), limited[6:]]).astype(np.float32)
    return target, executed, action_clipped, box_clipped
