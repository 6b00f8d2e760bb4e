"""Whether a policy fits the running stack: checked before every swap."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.policy import PolicySpec
from rldg_core.task import Task


def ticks_per_inference(spec: PolicySpec, control_hz: float) -> int:
    """A policy slower than the control rate infers every n-th tick and executes its chunk in between."""
    return max(1, math.ceil(control_hz / spec.rate_hz - 1e-6))


def check_spec(policy_id: str, spec: PolicySpec, task: Task) -> None:
    """Raise UserError with the first field of `spec` that the running task cannot serve."""
    where = f"policy {policy_id!r} does not fit task {task.name}"
    for name in spec.cameras:
        camera = task.cameras.get(name)
        if camera is None:
            raise UserError(f"{where}: it needs camera {name!r}, the task has {', '.join(task.cameras)}")
        if camera.image_size < spec.image_size:
            raise UserError(
                f"{where}: it needs images of {spec.image_size} px, camera {name!r} gives {camera.image_size}"
            )
    if spec.action_dim != task.action.dim:
        raise UserError(f"{where}: its actions have {spec.action_dim} components, the task's {task.action.dim}")
    if spec.horizon < 1 or spec.window < 1 or not spec.rate_hz > 0:
        raise UserError(f"{where}: horizon, window and rate_hz must be positive: {spec}")
    ticks = ticks_per_inference(spec, task.rates.control_hz)
    if spec.horizon < ticks:
        raise UserError(
            f"{where}: at {spec.rate_hz:g} Hz it needs chunks of {ticks} actions to answer every tick at "
            f"{task.rates.control_hz:g} Hz, it gives {spec.horizon}: start the stack with "
            f"control_hz:={spec.rate_hz * spec.horizon:g}"
        )


def check_chunk(chunk: NDArray[np.float32], spec: PolicySpec) -> NDArray[np.float32]:
    """Return the chunk clipped to [-1, 1]. Raises ValueError on another shape than (H, A) or on NaN and Inf."""
    values = np.asarray(chunk, dtype=np.float32)
    if values.shape != (spec.horizon, spec.action_dim):
        raise ValueError(f"action chunk of shape {values.shape}, expected {(spec.horizon, spec.action_dim)}")
    if not np.all(np.isfinite(values)):
        raise ValueError("action chunk holds a value that is not finite")
    return np.clip(values, -1.0, 1.0)
