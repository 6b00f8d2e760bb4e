"""Checks of an observation against the task and against the policy's specification."""

from __future__ import annotations

from rldg_core import plausible
from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_core.image_header import read_header
from rldg_core.policy import PolicySpec
from rldg_core.task import Task
from rldg_core.types import Observation


def check_message(observation: Observation, task: Task) -> None:
    """Raise ValueError on implausible numbers, and on images that are not from a camera of the task.

    The size is read from the image header. An image of another size shows another part of the scene, so it is refused
    and not resized.
    """
    plausible.check_observation(observation)
    for name, jpeg in observation.images.items():
        camera = task.cameras.get(name)
        if camera is None:
            raise ValueError(f"camera_names: {name!r}, task {task.name} has {', '.join(task.cameras)}")
        header = read_header(jpeg)
        if (header.height, header.width) != (camera.image_size, camera.image_size):
            raise ValueError(
                f"images: camera {name!r} gives {header.width}x{header.height} px, task {task.name} expects "
                f"{camera.image_size}x{camera.image_size} px"
            )


def check_observation(observation: Observation, spec: PolicySpec, sizes: bool) -> None:
    """Raise UserError when a camera's image is missing or, if `sizes` (which decodes it), too small."""
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
