"""Errors of the measured pose and of the estimated wrench."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from rldg_sim.pose_math import pose_of, wxyz
from rldg_sim.randomisation import stream
from rldg_sim.realism.presets import SensorRealism

Array = NDArray[np.float64]

MOVING_M_S = 0.1
"""Speed of the tcp at which the noise of the wrench has its full size; it does not grow further."""
MINUTE_S = 60.0


class SensorErrors:
    """Errors of one episode; call `restart` first, then each method once per frame, in order."""

    def __init__(self, realism: SensorRealism) -> None:
        self._realism = realism
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Begin the episode of this seed; its first wrench is taken for zero."""
        self._random = stream(seed, "sensors")
        self._drift_n_s = self._random.normal(0.0, self._realism.drift_n / MINUTE_S, 3)
        self._zero: Array | None = None

    def pose(self, pose_base_tcp: Array) -> Array:
        """Return the measured pose (7,)."""
        noise = self._random.normal(0.0, 1.0, 6)
        quaternion = wxyz(pose_base_tcp[3:])
        mujoco.mju_quatIntegrate(quaternion, noise[3:], self._realism.pose_rad)
        position = pose_base_tcp[:3] + self._realism.pose_m * noise[:3]
        return pose_of(position, quaternion)

    def wrench(self, wrench_tcp: Array, model_error: Array, speed_m_s: float, time_s: float) -> Array:
        """Return the estimated wrench (6,) in tcp axes.

        model_error (6,): wrench that an error of the dynamic model is taken for; time_s: since the reset.
        """
        estimated = wrench_tcp + model_error
        if self._zero is None:
            self._zero = estimated
        realism, moving = self._realism, min(1.0, speed_m_s / MOVING_M_S)
        force = np.hypot(realism.force_rest_n, moving * realism.force_n)
        size = np.repeat([force, moving * realism.torque_nm], 3)
        drift = np.concatenate([self._drift_n_s * time_s, np.zeros(3)])
        return np.asarray(estimated - self._zero + drift + self._random.normal(0.0, 1.0, 6) * size)
