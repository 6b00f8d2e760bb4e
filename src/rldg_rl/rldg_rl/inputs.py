"""The inputs of the networks and their shapes, as replay stores and policies compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Inputs(NamedTuple):
    """Inputs of the networks, with any leading batch axes (a pytree).

    state: (..., S) float32, proprioception.
    image: (..., *image_shape) float16 or float32 cached features of one crop, (..., H, W, 3) uint8 pixels, or None.
    """

    state: Any
    image: Any


@dataclass(frozen=True)
class InputSpec:
    """Shapes of the Inputs of one frame.

    image_shape: features (F,) or (h, w, c), pixels (H, W, 3), or None without an image. crops: number of crops that
    replay stores of a frame; a stored image is (crops, *image_shape) for features, (H, W, 3) for pixels.
    """

    state_dim: int
    image_shape: tuple[int, ...] | None
    image_dtype: Literal["float16", "uint8"]
    crops: int

    @property
    def pixels(self) -> bool:
        """Whether images are pixels, which the update augments; otherwise they are features."""
        return self.image_shape is not None and self.image_dtype == "uint8"
