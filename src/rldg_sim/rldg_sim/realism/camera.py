"""Errors of a camera: exposure, white balance, defocus, noise, and late images."""

from __future__ import annotations

from collections import deque

import cv2
import numpy as np
from numpy.typing import NDArray

from rldg_core.seeding import derive_seed
from rldg_sim.randomisation import stream
from rldg_sim.realism.presets import CameraRealism

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

PATTERN_PX = 64
"""The noise of a frame is a window of one pattern, larger by this: new noise would cost as much as the physics."""
REFERENCE_PX = 256


class CameraErrors:
    """Errors of one camera on one day; call `restart` first, then `seen` once per image."""

    def __init__(self, realism: CameraRealism, day: int, name: str, width: int, height: int) -> None:
        random = np.random.default_rng(derive_seed(day, "cell", "camera", name))
        exposure = 1.0 + realism.exposure * random.uniform(-1.0, 1.0)
        red, blue = 1.0 + realism.white_balance * random.uniform(-1.0, 1.0, 2)
        self._gains = exposure * np.diag([red, 1.0, blue])
        self._blur_px = realism.blur_px * height / REFERENCE_PX
        pattern = random.normal(0.0, realism.noise, (height + PATTERN_PX, width + PATTERN_PX, 3))
        rounded = np.clip(np.round(pattern), -255, 255)
        # Two sums of bytes take a quarter of the time of one of bytes and signed integers.
        self._brighter, self._darker = (np.maximum(sign * rounded, 0).astype(np.uint8) for sign in (1, -1))
        self._name, self._size = name, (height, width)
        self.restart(0)

    def restart(self, seed: int) -> None:
        """Begin the episode of this seed."""
        self._random = stream(seed, f"noise/{self._name}")

    def seen(self, image: Image) -> Image:
        """Return the image (height, width, 3) uint8 RGB as the camera gives it."""
        # A matrix on bytes takes a third of the time of a table.
        exposed = cv2.transform(image, self._gains)
        if self._blur_px > 0:
            exposed = cv2.GaussianBlur(exposed, (0, 0), self._blur_px)
        top, left = self._random.integers(0, PATTERN_PX, 2)
        height, width = self._size
        window = np.s_[top : top + height, left : left + width]
        return np.asarray(cv2.subtract(cv2.add(exposed, self._brighter[window]), self._darker[window]))


class PastStates:
    """Joint positions of the last moments, for images that show the past.

    age_s: least and greatest age; step_s: time between two calls of `keep`.
    """

    def __init__(self, age_s: tuple[float, float], step_s: float) -> None:
        self._age_steps = age_s[0] / step_s, age_s[1] / step_s
        self._states: deque[Array] = deque(maxlen=int(np.ceil(self._age_steps[1])) + 1)

    def restart(self, seed: int, qpos: Array) -> None:
        """Begin the episode of this seed, which was at rest before."""
        self._random = stream(seed, "image age")
        self._states.clear()
        self._states.append(qpos.copy())

    def keep(self, qpos: Array) -> None:
        """Take the present state."""
        self._states.append(qpos.copy())

    def look(self) -> Array:
        """Return the joint positions that images of this moment show."""
        age = round(self._random.uniform(*self._age_steps))
        return self._states[max(0, len(self._states) - 1 - age)]
