"""Whether an observation is what the policy was made for."""

from __future__ import annotations

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_core.policy import PolicySpec
from rldg_core.types import Observation


def check_observation(observation: Observation, spec: PolicySpec, sizes: bool) -> None:
    """Raise UserError when a camera's image is missing or, if `sizes` (it costs decoding), smaller than expected."""
    for name in spec.cameras:
        if name not in observation.images:
            held = ", ".join(observation.images) or "none"
            raise UserError(f"observation: the policy needs an image of camera {name!r}, it holds {held}")
        if sizes and spec.image_size:
            height, width = decode_jpeg(observation.images[name]).shape[:2]
            if min(height, width) < spec.image_size:
                raise UserError(
                    f"observation: camera {name!r} gives {width}x{height} px, the policy needs {spec.image_size} px"
                )
