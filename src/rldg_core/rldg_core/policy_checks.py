"""Whether a policy fits the running stack: checked before every swap."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.policy import PolicySpec
from rldg_core.task import Task


def check_finite(where: object, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """Raise UserError `where: array: ...` on the first floating-point array that holds NaN or Inf."""
    for name, values in arrays:
        if not np.issubdtype(values.dtype, np.integer) and not np.isfinite(values).all():
            raise UserError(f"{where}: {name} holds a value that is not finite: corrupt weights")


def ticks_per_inference(spec: PolicySpec, control_hz: float) -> int:
    """A policy slower than the control rate infers every n-th tick and executes its chunk in between."""
    return max(1, math.ceil(control_hz / spec.rate_hz - 1e-6))


RATE_TOLERANCE = 0.05
"""Relative tolerance, since rates of data are measured from stamps."""


def same_rate(one_hz: float, other_hz: float) -> bool:
    """Return whether two rates are equal within measurement tolerance."""
    return abs(one_hz - other_hz) <= RATE_TOLERANCE * other_hz


def check_spec(policy_id: str, spec: PolicySpec, task: Task, paced: bool = True) -> None:
    """Raise UserError with the first field of `spec` that the running task cannot serve.

    paced: actions are executed at the task's control rate (False: a client requests each one at any time).
    """
    where = f"policy {policy_id!r} does not fit task {task.name}"
    for name in spec.cameras:
        camera = task.cameras.get(name)
        if camera is None:
            raise UserError(f"{where}: it needs camera {name!r}, the task has {', '.join(task.cameras)}")
        if camera.image_size < spec.image_size:
            raise UserError(
                f"{where}: it needs images of {spec.image_size} px, camera {name!r} has {camera.image_size}"
            )
    if spec.action_dim != task.action.dim:
        raise UserError(f"{where}: its actions have {spec.action_dim} components, the task's {task.action.dim}")
    if spec.horizon < 1 or spec.window < 1 or not spec.rate_hz > 0:
        raise UserError(f"{where}: horizon, window and rate_hz must be positive: {spec}")
    if paced:
        _check_pace(where, spec, task.rates.control_hz)


def _check_pace(where: str, spec: PolicySpec, control_hz: float) -> None:
    ticks, rates_hz = ticks_per_inference(spec, control_hz), spec.control_rates_hz
    if rates_hz is not None and not rates_hz:
        raise UserError(
            f"{where}: it does not say at which rate and by which camera its data were recorded: "
            "say it once with `rldg checkpoint adopt`"
        )
    if rates_hz is not None and not any(same_rate(rate_hz, control_hz) for rate_hz in rates_hz):
        raise UserError(
            f"{where}: its data have {rates_hz[0]:g} steps per second, the stack runs at {control_hz:g} Hz: every "
            f"action would take {rates_hz[0] / control_hz:.3g} times as long; start the stack with "
            f"control_hz:={rates_hz[0]:g}, or, for a generalist, allow it once with "
            f"`rldg checkpoint rate FOLDER {control_hz:g}`"
        )
    if spec.horizon < ticks:
        slower_hz = spec.rate_hz * spec.horizon
        allow = "" if rates_hz is None else f" (after `rldg checkpoint rate FOLDER {slower_hz:g}`)"
        raise UserError(
            f"{where}: at {spec.rate_hz:g} inferences per second it needs chunks of {ticks} actions to answer every "
            f"tick at {control_hz:g} Hz, it gives {spec.horizon}: start the stack with control_hz:={slower_hz:g}{allow}"
        )


def check_chunk(chunk: NDArray[np.float32], spec: PolicySpec) -> NDArray[np.float32]:
    """Return the chunk clipped to [-1, 1]. Raises ValueError on another shape than (H, A) or on NaN and Inf."""
    values = np.asarray(chunk, dtype=np.float32)
    if values.shape != (spec.horizon, spec.action_dim):
        raise ValueError(f"action chunk of shape {values.shape}, expected {(spec.horizon, spec.action_dim)}")
    if not np.all(np.isfinite(values)):
        raise ValueError("action chunk holds a value that is not finite")
    return np.clip(values, -1.0, 1.0)
