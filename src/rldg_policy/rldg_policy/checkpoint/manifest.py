"""rldg.json: the input that a generalist's checkpoint expects, and the statistics that denormalise its actions.

Fine-tuning writes it; `rldg checkpoint adopt` writes it for a checkpoint trained elsewhere.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from rldg_core.configuration import Count, FrozenModel, validated
from rldg_core.errors import UserError
from rldg_core.files import read_json, write_json
from rldg_core.policy import PolicySpec
from rldg_core.task import CropConfig, FixedMount, Task

MANIFEST_FILE = "rldg.json"

Name = Annotated[str, Field(min_length=1)]
Rate = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class View(FrozenModel):
    """Crop and size of a camera's images, and where a fixed camera stands (`rldg_core.task.CameraConfig.view`)."""

    width: Count
    height: Count
    crop: CropConfig | None
    image_size: Count
    mount: FixedMount | None = Field(default=None, exclude_if=lambda mount: mount is None)

    def __str__(self) -> str:
        crop = self.crop
        part = f"{crop.width}x{crop.height} at ({crop.x}, {crop.y}) of " if crop else ""
        place = ", ".join(f"{number:g}" for number in self.mount.position_base_m) if self.mount else ""
        mount = f" from ({place}) m" if self.mount else ""
        return f"{part}{self.width}x{self.height} px as {self.image_size} px{mount}"


class ObservationRecord(FrozenModel):
    """How one task was recorded. view: of the camera (None: unknown); gripper: whether actions include a gripper."""

    view: View | None
    gripper: bool


class Manifest(FrozenModel):
    """Content of rldg.json.

    backend: name of the generalist; tasks: names of the tasks in the training data (empty: any); camera: the image of
    the observation that it gets; image_size: side of that image [px]; window: observations per inference; horizon:
    actions per inference; rate_hz: steps per second in the training data, hence the control rate of its actions;
    allowed_rates_hz: further control rates allowed by `rldg checkpoint rate`; inference_hz: inferences per second
    (None: one per control step); made_of: task -> how it was recorded (empty: unknown, for a checkpoint trained
    elsewhere or by an older version); dataset_sha256: of the training data ("": unknown); statistics_key: entry of
    dataset_statistics.json; statistics_sha256: of that file; version: optimiser steps.
    """

    format: Literal["rldg-generalist-1"] = "rldg-generalist-1"
    backend: Name
    tasks: tuple[Name, ...] = ()
    camera: Name = "wrist"
    image_size: Count
    window: Count
    horizon: Count
    rate_hz: Rate
    allowed_rates_hz: tuple[Rate, ...] = ()
    inference_hz: Rate | None = None
    made_of: dict[Name, ObservationRecord] = Field(default_factory=dict)
    dataset_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    statistics_key: Name
    statistics_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    version: Annotated[int, Field(ge=0, le=1_000_000_000)]

    @property
    def control_rates_hz(self) -> tuple[float, ...]:
        """Control rates [Hz] at which the checkpoint may be served."""
        return self.rate_hz, *self.allowed_rates_hz

    def inferences_hz(self, task: Task) -> float:
        """Return the inferences per second in a stack that runs `task`."""
        return min(self.inference_hz or math.inf, task.rates.control_hz)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises UserError naming the file."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object")
    return data


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a checkpoint folder, None if there is none. Raises UserError if it is malformed."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    return validated(Manifest, read_object(path), str(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write rldg.json atomically into an existing folder."""
    write_json(folder / MANIFEST_FILE, manifest.model_dump(mode="json"))


def check_backend(folder: Path, manifest: Manifest | None, backend: str) -> None:
    """Raise UserError when another back-end wrote the checkpoint."""
    if manifest and manifest.backend != backend:
        raise UserError(f"{folder / MANIFEST_FILE}: backend: a checkpoint of {manifest.backend}, not of {backend}")


def check_task(folder: Path, manifest: Manifest | None, task: Task) -> None:
    """Raise UserError when the training data differ from `task` in its name, camera view or gripper.

    `rldg_core.policy_checks.check_spec` compares control rate and camera name.
    """
    if manifest is None:
        return
    if manifest.tasks and task.name not in manifest.tasks:
        made_for = ", ".join(map(repr, manifest.tasks))
        raise UserError(f"{folder}: made for task {made_for}, this stack runs {task.name!r}")
    made, camera = manifest.made_of.get(task.name), task.cameras.get(manifest.camera)
    if made is None:
        return
    if made.view and camera and made.view != (now := View.model_validate(camera.view)):
        raise UserError(
            f"{folder}: trained on images of camera {manifest.camera!r} that show {made.view}; task {task.name} has "
            f"{now}: restore the camera settings, or record and train again"
        )
    if made.gripper != task.action.gripper:
        has = {True: "with a gripper", False: "without a gripper"}
        raise UserError(
            f"{folder}: trained on actions {has[made.gripper]}, task {task.name} is {has[task.action.gripper]}"
        )


def manifest_spec(manifest: Manifest, task: Task) -> PolicySpec:
    """What a checkpoint expects and delivers in a stack of `task`, by its manifest alone."""
    return PolicySpec(
        cameras=(manifest.camera,),
        image_size=manifest.image_size,
        window=manifest.window,
        action_dim=task.action.dim,
        horizon=manifest.horizon,
        rate_hz=manifest.inferences_hz(task),
        statistics_key=manifest.statistics_key,
        version=manifest.version,
        control_rates_hz=manifest.control_rates_hz,
    )


def allow_rate(folder: Path, control_hz: float) -> Manifest:
    """Allow serving at a control rate other than that of the training data: each action then takes 1 / control_hz.

    Raises UserError when the folder has no manifest or the rate is out of range.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder / MANIFEST_FILE}: missing: adopt the checkpoint first (`rldg checkpoint adopt`)")
    if control_hz in manifest.control_rates_hz:
        return manifest
    rates = (*manifest.allowed_rates_hz, control_hz)
    changed = validated(
        Manifest, {**manifest.model_dump(mode="json"), "allowed_rates_hz": rates}, str(folder / MANIFEST_FILE)
    )
    write_manifest(folder, changed)
    return changed
