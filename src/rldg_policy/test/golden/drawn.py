"""Draws every weight and image of the golden references from its name and shape.

The rule needs only SHAKE-128 (FIPS 202) and exact float32 arithmetic, so every platform, library and language gives the
same bits. README.md states it in words.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["torch", "flax"]
TABLE = re.compile(r"(embedding|embed|embed_tokens\.weight|token|latent)$")
"""Parameters that are looked up or added rather than multiplied: their fan-in is 1."""


def stream(name: str, count: int) -> bytes:
    """Return the first `count` bytes of SHAKE-128 of the name in UTF-8."""
    return hashlib.shake_128(name.encode()).digest(count)


def uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return multiples of 2**-23 in [-1, 1): the upper 24 bits of the stream's little-endian 32-bit words."""
    words = np.frombuffer(stream(name, 4 * math.prod(shape)), "<u4")
    return ((words >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)).reshape(shape)


def weight(name: str, shape: tuple[int, ...], layout: Layout) -> NDArray[np.float32]:
    """Return a parameter: scaled by 1/sqrt(fan-in), or, with one dimension, around 0 (a bias) or 1 (a scale).

    Biases and scales differ from the 0 and 1 of initialisers, so that a port that ignores one of them fails.
    """
    drawn = uniform(name, shape)
    if len(shape) < 2:
        return np.float32(0.25) * drawn + np.float32(0.0 if name.endswith("bias") else 1.0)
    outputs = shape[0] if layout == "torch" else shape[-1]
    fan_in = 1 if TABLE.search(name) else math.prod(shape) // outputs
    return np.float32(math.sqrt(3.0 / fan_in)) * drawn


def noise(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return values of mean 0 and variance 1."""
    return np.float32(math.sqrt(3.0)) * uniform(name, shape)


def image(name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return an image whose bytes are the stream's."""
    return np.frombuffer(stream(name, math.prod(shape)), np.uint8).reshape(shape)
