"""Loads a frozen encoder by the name that configurations give it. JAX is imported only then."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from rldg_core.errors import UserError
from rldg_rl.encoders.frozen import FrozenEncoder

FrozenName = Literal["random_conv", "embedded", "resnet10"]


@cache
def load_encoder(name: FrozenName, weights: Path | None = None) -> FrozenEncoder:
    """Return a frozen encoder. weights: file for `resnet10`; the other encoders have theirs in this package.

    Raises UserError when weights are missing, are given to another encoder, or do not fit.
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
