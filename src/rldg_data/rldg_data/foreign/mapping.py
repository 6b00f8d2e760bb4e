"""How a bag of other people becomes Steps: a YAML file that names its topics and says what they mean."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rldg_core.configuration import load_model
from rldg_core.task import ActionConfig, CropConfig

Name = Annotated[str, Field(pattern=r"^/?[a-zA-Z_][a-zA-Z0-9_/]*$")]
Path_ = Annotated[str, Field(pattern=r"^([A-Za-z_]\w*|\d+)?(\.([A-Za-z_]\w*|\d+))*$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TopicMapping(_Model):
    """topic: full name; field: dotted path of names and indices into the message, default by its type."""

    topic: Name
    field: Path_ = ""


class CameraMapping(_Model):
    """sensor_msgs/Image or CompressedImage; crop (default: all) is resized to a square of size_px.

    A JPEG that is of this size already is passed through as it is.
    """

    topic: Name
    size_px: Annotated[int, Field(ge=32, le=1024)] = 256
    crop: CropConfig | None = None
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] = 95


class TargetAction(TopicMapping):
    """A pose the arm was sent to, in base: the action is the delta from the measured pose to the newest target."""

    kind: Literal["target"]


class TwistAction(TopicMapping):
    """A velocity of the tcp [m/s, rad/s] in tcp or base axes; the action is its mean over a step times the period."""

    kind: Literal["twist"]
    frame: Literal["tcp", "base"] = "tcp"


class DeltaAction(TopicMapping):
    """Six numbers, translation and rotation vector per step, in tcp or base axes; one unit is unit_m and unit_rad.

    first: index of the first of them, e.g. among the axes of a Joy.
    """

    kind: Literal["delta"]
    frame: Literal["tcp", "base"] = "tcp"
    unit_m: Positive = 1.0
    unit_rad: Positive = 1.0
    first: Annotated[int, Field(ge=0)] = 0


class GripperAction(TopicMapping):
    """A number: the values that mean open and closed; makes the action 7-D."""

    open: Finite
    closed: Finite

    @model_validator(mode="after")
    def _differ(self) -> GripperAction:
        if self.open == self.closed:
            raise ValueError("open and closed must differ")
        return self


class GripperWidth(TopicMapping):
    """A number, times `scale` the distance between the fingers [m]; e.g. 2.0 for the position of one of two fingers."""

    scale: Positive = 1.0


class ForeignMapping(_Model):
    """One bag is one episode. See docs/data.md for an example.

    stamps: of the header where a message has one that is set, else (or with `log`, always) the log time;
    max_age_s: how old a pose, wrench, ... may be at a tick, default two periods.
    """

    task: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
    object: Annotated[str, Field(min_length=1)]
    instruction: Annotated[str, Field(min_length=1)]
    success: bool
    source: Literal["human", "policy", "scripted"] = "human"
    rate_hz: Annotated[float, Field(ge=1, le=100)] = 10.0
    stamps: Literal["header", "log"] = "header"
    max_age_s: Positive | None = None
    scale_m: Annotated[float, Field(gt=0, le=0.1)] = 0.015
    scale_rad: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    cameras: Annotated[dict[str, CameraMapping], Field(min_length=1)]
    pose: TopicMapping
    action: Annotated[TargetAction | TwistAction | DeltaAction, Field(discriminator="kind")]
    wrench: TopicMapping | None = None
    joints: TopicMapping | None = None
    gripper_width: GripperWidth | None = None
    gripper_action: GripperAction | None = None

    @property
    def period_s(self) -> float:
        """Time between two Steps."""
        return 1.0 / self.rate_hz


@dataclass(frozen=True)
class ForeignTask:
    """What the recorder wants to know of a task: its name, its action scale, a hash of everything that decides."""

    name: str
    action: ActionConfig
    hash: str

    @classmethod
    def of(cls, mapping: ForeignMapping) -> ForeignTask:
        """The task that a mapping describes."""
        gripper = mapping.gripper_action is not None
        action = ActionConfig(scale_m=mapping.scale_m, scale_rad=mapping.scale_rad, gripper=gripper)
        return cls(mapping.task, action, hashlib.sha256(mapping.model_dump_json().encode()).hexdigest()[:16])

    def config_hash(self) -> str:
        """As long as that of a task file."""
        return self.hash


def load_mapping(path: Path) -> ForeignMapping:
    """Read a mapping. Raises UserError `path: key: reason` on the first mistake."""
    return load_model(ForeignMapping, path, "mapping")
