"""Task configuration: one validated YAML file per task with everything that depends on the task.

Lengths in m, angles in rad, forces in N unless a name says otherwise. Poses are [x y z qx qy qz qw] of
the tcp in base. Unknown keys, values out of range and boxes whose low exceeds their high are refused
with the path of the file and of the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from rldg_core.configuration import (
    Count,
    Finite,
    FrozenModel,
    NonNegativeCount,
    Positive,
    first_mistake,
    load_model,
)
from rldg_core.errors import UserError
from rldg_core.instructions import fault
from rldg_core.plausible import check_quaternion
from rldg_core.scenes import SceneConfig, default_scene, validate_scene

if TYPE_CHECKING:
    from rldg_core.frames import SafetyBox

Pose7 = tuple[Finite, Finite, Finite, Finite, Finite, Finite, Finite]
Vector6 = tuple[Finite, Finite, Finite, Finite, Finite, Finite]


def _without_fault(instruction: str) -> str:
    if reason := fault(instruction):
        raise ValueError(reason)
    return instruction


Instruction = Annotated[str, AfterValidator(_without_fault)]


class ObjectConfig(FrozenModel):
    """One variant of the task: what is inserted or picked, and its instruction."""

    instruction: Instruction
    seen: bool = True


class RatesConfig(FrozenModel):
    """control_hz: ticks per second of observer, policy, gate and episode (paper: 10)."""

    control_hz: Annotated[float, Field(ge=1, le=100)] = 10.0


class EpisodeConfig(FrozenModel):
    """max_steps: time limit (truncation)."""

    max_steps: Annotated[int, Field(ge=1, le=10_000)] = 100


class ActionConfig(FrozenModel):
    """Scale of one unit of action per step (paper: 0.015 m, 0.1 rad); gripper adds a 7th component."""

    scale_m: Annotated[float, Field(gt=0, le=0.1)] = 0.015
    scale_rad: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    gripper: bool = False

    @property
    def dim(self) -> int:
        """Length of an action."""
        return 7 if self.gripper else 6

    def to_delta_tcp(self, action: ArrayLike) -> NDArray[np.float64]:
        """Normalised action -> delta_tcp (6,) [m, rad]."""
        delta_tcp: NDArray[np.float64] = np.asarray(action, dtype=np.float64)[:6] * self._scale
        return delta_tcp

    def from_delta_tcp(self, delta_tcp: ArrayLike) -> NDArray[np.float64]:
        """delta_tcp (6,) [m, rad] -> normalised action, not clipped."""
        action: NDArray[np.float64] = np.asarray(delta_tcp, dtype=np.float64)[:6] / self._scale
        return action

    @property
    def _scale(self) -> NDArray[np.float64]:
        return np.array([self.scale_m] * 3 + [self.scale_rad] * 3)


class ResetConfig(FrozenModel):
    """Start of an episode: uniform in +-xy_m, +-z_m and +-yaw_rad around pose_base_tcp."""

    pose_base_tcp: Pose7
    xy_m: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    z_m: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    yaw_rad: Annotated[float, Field(ge=0, le=np.pi)] = 0.1


class BoxConfig(FrozenModel):
    """Safety box: low and high of the tcp's offset from the target pose (rldg_core.frames.offset_from)."""

    low: Vector6
    high: Vector6

    @model_validator(mode="after")
    def _ordered(self) -> BoxConfig:
        for index, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            if low > high:
                raise ValueError(f"low[{index}] = {low} exceeds high[{index}] = {high}")
        return self


class CropConfig(FrozenModel):
    """Rectangle of the vendor image that policies see [px]."""

    x: NonNegativeCount
    y: NonNegativeCount
    width: Count
    height: Count


class FixedMount(FrozenModel):
    """A simulated camera that stands beside the arm: its position and the point it looks at, in base [m]."""

    position_base_m: tuple[Finite, Finite, Finite]
    aim_base_m: tuple[Finite, Finite, Finite]
    fovy_deg: Annotated[float, Field(ge=5, le=120)] = 45.0
    """Vertical angle of view."""

    @model_validator(mode="after")
    def _has_direction(self) -> FixedMount:
        if np.linalg.norm(np.subtract(self.aim_base_m, self.position_base_m)) < 1e-3:
            raise ValueError("aim_base_m: at the camera's own position, expected the point it looks at")
        return self


def _is_none(value: object) -> bool:
    return value is None


class CameraConfig(FrozenModel):
    """One camera: the driver publishes width x height; crop (default: all) is resized to a square of `image_size`.

    mount: where the simulated cell puts it; absent: on the wrist, where the scene says. device: serial number by which
    the driver finds it.
    """

    topic: Annotated[str, Field(pattern=r"^/?[a-zA-Z_][a-zA-Z0-9_/]*$")]
    width: Annotated[int, Field(ge=16, le=4096)] = 640
    height: Annotated[int, Field(ge=16, le=4096)] = 480
    crop: CropConfig | None = None
    image_size: Annotated[int, Field(ge=32, le=1024)] = 256
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] = 90
    mount: FixedMount | None = Field(default=None, exclude_if=_is_none)
    """Part of the configuration, its hash and the view only where it is given."""
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]*$")] = Field(default="", exclude=True)
    """Not part of the configuration and of its hash."""

    @property
    def view(self) -> dict[str, Any]:
        """Settings that determine which part of the scene a pixel shows (JSON); stored with data and artifacts."""
        return self.model_dump(mode="json", include={"width", "height", "crop", "image_size", "mount"})

    @model_validator(mode="after")
    def _crop_inside(self) -> CameraConfig:
        crop = self.crop
        if crop and (crop.x + crop.width > self.width or crop.y + crop.height > self.height):
            raise ValueError(f"crop exceeds the {self.width}x{self.height} image")
        return self


class GainsConfig(FrozenModel):
    """Cartesian impedance: stiffness [N/m, N m/rad], damping [N s/m, N m s/rad], reference error clip [m, rad]."""

    stiffness: Positive
    damping: Positive
    rotational_stiffness: Positive
    rotational_damping: Positive
    error_clip_m: Positive
    error_clip_rad: Positive


class ImpedanceConfig(FrozenModel):
    """compliant while a policy or person acts; precise for resets."""

    compliant: GainsConfig
    precise: GainsConfig


class RewardConfig(FrozenModel):
    """Where success comes from: the simulator's ground truth, the operator's label, or the reward classifier.

    With the classifier, success is `consecutive_frames` frames over its threshold in a row, and, where success_box
    is given, the tcp's offset from the target pose inside it on each (HIL-SERL's check of the proprioception).
    """

    source: Literal["ground_truth", "operator", "classifier"]
    consecutive_frames: Annotated[int, Field(ge=1, le=100)] = 2
    success_box: BoxConfig | None = None


Scene = Annotated[SerializeAsAny[SceneConfig], BeforeValidator(validate_scene)]
"""Validated by the class of its kind (`rldg_core.scenes`)."""


class _Camera(Protocol):
    """A camera of a task or of an external bag."""

    @property
    def topic(self) -> str: ...

    @property
    def crop(self) -> CropConfig | None: ...


def check_distinct(cameras: Mapping[str, _Camera]) -> None:
    """Raise ValueError when two cameras have the same topic and crop; crops of one stereo image may share a topic."""
    seen: dict[tuple[str, CropConfig | None], str] = {}
    for name, camera in cameras.items():
        first = seen.setdefault((camera.topic.removeprefix("/"), camera.crop), name)
        if first != name:
            raise ValueError(
                f"cameras: {first} and {name} are both topic {camera.topic}: expected different topics or crops"
            )


class Task(FrozenModel):
    """A task, as read from `<name>.yaml`."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    objects: Annotated[dict[str, ObjectConfig], Field(min_length=1)]
    default_object: str
    rates: RatesConfig = RatesConfig()
    episode: EpisodeConfig = EpisodeConfig()
    action: ActionConfig = ActionConfig()
    reset: ResetConfig
    target_pose_base_tcp: Pose7
    safety_box: BoxConfig
    cameras: Annotated[dict[str, CameraConfig], Field(min_length=1)]
    impedance: ImpedanceConfig
    reward: RewardConfig
    scene: Scene = Field(default_factory=default_scene)

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if self.default_object not in self.objects:
            raise ValueError(f"default_object {self.default_object!r} is not among objects {sorted(self.objects)}")
        for name, value in (
            ("reset.pose_base_tcp", self.reset.pose_base_tcp),
            ("target_pose_base_tcp", self.target_pose_base_tcp),
        ):
            check_quaternion(value[3:], name)
        check_distinct(self.cameras)
        return self

    @property
    def box(self) -> SafetyBox:
        """The safety box around the target pose."""
        # Imported here: SciPy's rotations take half of the start-up time of commands and nodes that do not need them.
        from rldg_core.frames import SafetyBox

        return SafetyBox(
            np.array(self.target_pose_base_tcp), np.array(self.safety_box.low), np.array(self.safety_box.high)
        )

    @property
    def period_s(self) -> float:
        """Control period."""
        return 1.0 / self.rates.control_hz

    @property
    def period_ns(self) -> int:
        """Control period."""
        return round(1e9 / self.rates.control_hz)

    def instruction(self, object_name: str = "") -> str:
        """Instruction for an object ("" = default). Raises UserError on an unknown one."""
        return self.objects[self.object_or_default(object_name)].instruction

    def object_or_default(self, object_name: str = "") -> str:
        """Return the object's name after checking it; "" gives the default. Raises UserError on an unknown one."""
        name = object_name or self.default_object
        if name not in self.objects:
            raise UserError(f"task {self.name}: unknown object {name!r}, expected one of {', '.join(self.objects)}")
        return name

    @property
    def rate_hz(self) -> float:
        """Steps per second."""
        return self.rates.control_hz

    @property
    def views(self) -> dict[str, dict[str, Any]]:
        """Camera -> its view."""
        return {name: camera.view for name, camera in self.cameras.items()}

    def with_scene(self, **settings: Any) -> Task:
        """Return this task with other settings of its scene. Raises ValidationError on those it does not have."""
        scene = type(self.scene).model_validate({**self.scene.model_dump(), **settings})
        return self.model_copy(update={"scene": scene})

    def config_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of the resolved configuration."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_task(path: Path, default_object: str = "") -> Task:
    """Read and validate a task file. Raises UserError `path: key.path: reason` on the first error."""
    return load_model(Task, path, "task", {"default_object": default_object} if default_object else None)


def at_rate(reference: str, control_hz: float) -> str:
    """Return the reference with another control rate; 0 keeps that of the reference."""
    return f"{_split_rate(reference)[0]}@{control_hz:g}" if control_hz else reference


def _split_rate(reference: str) -> tuple[str, str | None]:
    name, at, rate = reference.rpartition("@")
    return (reference, None) if not at or reference.endswith((".yaml", ".yml")) else (name, rate)


def find_task(reference: str, directories: list[Path]) -> Task:
    """Resolve `name`, `name:object` or a path ending in .yaml, each with or without `@control_hz`, to a Task.

    An action is a delta per tick at any rate. Raises UserError listing the known tasks when `name` is unknown.
    """
    reference, rate = _split_rate(reference)
    task = _find_task(reference, directories)
    if rate is None:
        return task
    try:
        rates = RatesConfig(control_hz=rate)  # type: ignore[arg-type]  # a number as text
    except ValidationError as error:
        raise UserError(f"task {reference}@{rate}: control_hz: {first_mistake(error)[1]}") from error
    return task.model_copy(update={"rates": rates})


def _find_task(reference: str, directories: list[Path]) -> Task:
    name, _, object_name = reference.partition(":")
    if name.endswith((".yaml", ".yml")):
        return load_task(Path(name), object_name)
    for directory in directories:
        path = directory / f"{name}.yaml"
        if path.is_file():
            return load_task(path, object_name)
    known = sorted({p.stem for d in directories for p in d.glob("*.yaml")})
    raise UserError(f"unknown task {name!r}, expected one of {', '.join(known) or 'none found'} or a .yaml file")
