"""Frozen encoders: uint8 images in, float16 features out. As their weights never change, a frame's features do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError

IMAGE_SIZE = 128
"""Side of the square image that every encoder sees [px] (paper)."""

FrozenName = Literal["random_conv", "embedded", "resnet10"]


@dataclass(frozen=True)
class FrozenEncoder:
    """One frozen encoder. feature_shape: (F,) or (h, w, c); weights_sha256 goes into a specialist's specification."""

    name: str
    feature_shape: tuple[int, ...]
    weights_sha256: str
    apply: Callable[[NDArray[np.uint8]], Any]
    """Jitted: (N, 128, 128, 3) uint8 -> (N, *feature_shape)."""

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(N, 128, 128, 3) uint8 RGB -> (N, *feature_shape) float16. Compiles once for each N."""
        return np.asarray(self.apply(images), np.float16)


@cache
def load_encoder(name: FrozenName, weights: Path | None = None) -> FrozenEncoder:
    """Build a frozen encoder; `resnet10` needs the user's weights, the others bring their own.

    Raises UserError when weights are missing, not wanted or do not fit.
    """
    if name == "resnet10":
        if weights is None:
            raise UserError("image_encoder resnet10: give the file of its weights (encoder_weights)")
        from rldg_rl.encoders.resnet10 import load_resnet10

        return load_resnet10(weights)
    if weights is not None:
        raise UserError(f"image_encoder {name}: brings its own weights, encoder_weights {weights} is not used")
    if name == "random_conv":
        from rldg_rl.encoders.random_conv import random_conv

        return random_conv()
    from rldg_rl.encoders.embedded import load_embedded

    return load_embedded()
