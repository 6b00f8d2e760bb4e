"""What the networks see of one observation, from replay to policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Inputs(NamedTuple):
    """A pytree; any leading batch axes.

    state: (..., S) float32, proprioception.
    image: (..., *image_shape) float16 or float32 cached features of one crop, (..., H, W, 3) uint8 pixels, or None.
    """

    state: Any
    image: Any


@dataclass(frozen=True)
class InputSpec:
    """Shapes of Inputs for one frame.

    image_shape: (F,) or (h, w, c) features, (H, W, 3) pixels, None without an image. crops: crops stored of a frame:
    the stored image is (crops, *image_shape) for features, (H, W, 3) with crops == 1 for pixels.
    """

    state_dim: int
    image_shape: tuple[int, ...] | None
    image_dtype: Literal["float16", "uint8"]
    crops: int

    @property
    def pixels(self) -> bool:
        """Whether images are pixels, which the update augments, rather than features."""
        return self.image_shape is not None and self.image_dtype == "uint8"
