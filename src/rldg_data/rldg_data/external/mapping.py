"""Mapping of an external bag to Steps: a YAML file with its topics and their meaning."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rldg_core.configuration import Finite, FrozenModel, NonNegativeCount, Positive, load_model
from rldg_core.instructions import fault
from rldg_core.task import ActionConfig, CropConfig, Instruction, check_distinct
from rldg_data.external.frames import Frame

Name = Annotated[str, Field(pattern=r"^/?[a-zA-Z_][a-zA-Z0-9_/]*$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Path_ = Annotated[str, Field(pattern=r"^([A-Za-z_]\w*|\d+)?(\.([A-Za-z_]\w*|\d+))*$")]


class TopicMapping(FrozenModel):
    """topic: full name; field: dotted path of names and indices into the message, default by its type.

    offset_s: added to the stamps, for a driver whose stamps are early or late. frame_id: expected frame name of the
    message, if it is not a known one (`rldg_data.external.frames`).
    """

    topic: Name
    field: Path_ = ""
    offset_s: Annotated[float, Field(ge=-10, le=10)] = 0.0
    frame_id: str = ""


class PoseMapping(TopicMapping):
    """tcp in base. child_frame_id: as frame_id, of a TransformStamped."""

    child_frame_id: str = ""


class WrenchMapping(TopicMapping):
    """frame: axes of force and torque; a wrench in base axes is rotated into the tcp."""

    frame: Frame = "tcp"


class CameraMapping(FrozenModel):
    """sensor_msgs/Image or CompressedImage; crop (default: all) is resized to a square of size_px.

    A JPEG of this size is passed through unchanged.
    """

    topic: Name
    offset_s: Annotated[float, Field(ge=-10, le=10)] = 0.0
    size_px: Annotated[int, Field(ge=32, le=1024)] = 256
    crop: CropConfig | None = None
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] = 95


class TargetAction(PoseMapping):
    """A commanded pose in base: the action is the delta from the measured pose to the newest target."""

    kind: Literal["target"]


class TwistAction(TopicMapping):
    """A velocity of the tcp [m/s, rad/s] in tcp or base axes; the action is its mean over a step times the period."""

    kind: Literal["twist"]
    frame: Frame = "tcp"


class DeltaAction(TopicMapping):
    """Six numbers, translation and rotation vector per step, in tcp or base axes; one unit is unit_m and unit_rad.

    first: index of the first of them, e.g. among the axes of a Joy.
    """

    kind: Literal["delta"]
    frame: Frame = "tcp"
    unit_m: Positive = 1.0
    unit_rad: Positive = 1.0
    first: NonNegativeCount = 0


class GripperAction(TopicMapping):
    """A number, a command or a width: the values that mean open and closed; makes the action 7-D.

    The threshold is the middle of the topic's range (`rldg_data.episodes.gripper.switching`).
    """

    open: Finite
    closed: Finite

    @model_validator(mode="after")
    def _differ(self) -> GripperAction:
        if self.open == self.closed:
            raise ValueError("open and closed must differ")
        return self


class GripperWidth(TopicMapping):
    """A number, times `scale` the distance between the fingers [m]; e.g. 2.0 for the position of one of two fingers.

    In a JointState without `field`, the fingers are found by name.
    """

    scale: Positive = 1.0


class EpisodeRange(FrozenModel):
    """from_s, to_s: since the start of the bag (`ros2 bag info`). The others default to the mapping's."""

    from_s: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] = 0.0
    to_s: Positive
    success: bool | None = None
    object: Annotated[str, Field(min_length=1)] | None = None
    instruction: Instruction | None = None

    @model_validator(mode="after")
    def _ordered(self) -> EpisodeRange:
        if self.to_s <= self.from_s:
            raise ValueError(f"to_s {self.to_s:g} is not after from_s {self.from_s:g}")
        return self


class Cut(FrozenModel):
    """Criterion for the boundary between episodes. Exactly one of the two.

    gap_s: longest pause of the first camera or the pose within an episode.
    topic: each message begins an episode; a message whose `field` is false or 0 ends one.
    """

    gap_s: Positive | None = None
    topic: Name | None = None
    field: Path_ = ""

    @model_validator(mode="after")
    def _one(self) -> Cut:
        if (self.gap_s is None) == (self.topic is None):
            raise ValueError("expected either gap_s or topic")
        return self


class ExternalMapping(FrozenModel):
    """One bag is one episode, unless `episodes` (ranges of time) or `cut` says otherwise (docs/how-to/import_data.md).

    stamps: `header`: header stamps where they exist and are set, else log times; `log`: log times.
    max_age_s: maximum age of a pose, wrench, ... at a tick, default two periods. max_stamp_offset_s: maximum difference
    of the recording delays of two topics, default `rldg_data.plausibility.Limits`.
    """

    task: Word
    object: Annotated[str, Field(min_length=1)]
    instruction: Instruction
    success: bool
    source: Literal["human", "policy", "scripted"] = "human"
    rate_hz: Annotated[float, Field(ge=1, le=100)] = 10.0
    stamps: Literal["header", "log"] = "header"
    max_age_s: Positive | None = None
    max_stamp_offset_s: Positive | None = None
    episodes: tuple[EpisodeRange, ...] = ()
    cut: Cut | None = None
    scale_m: Annotated[float, Field(gt=0, le=0.1)] = 0.015
    scale_rad: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    cameras: Annotated[dict[Word, CameraMapping], Field(min_length=1)]
    pose: PoseMapping
    action: Annotated[TargetAction | TwistAction | DeltaAction, Field(discriminator="kind")]
    wrench: WrenchMapping | None = None
    joints: TopicMapping | None = None
    gripper_width: GripperWidth | None = None
    gripper_action: GripperAction | None = None

    @model_validator(mode="after")
    def _one_way_to_cut(self) -> ExternalMapping:
        if self.episodes and self.cut:
            raise ValueError("expected either episodes or cut")
        for before, after in zip(self.episodes, self.episodes[1:], strict=False):
            if after.from_s < before.to_s:
                raise ValueError(
                    f"episodes: from_s {after.from_s:g} is before to_s {before.to_s:g} of the previous range"
                )
        return self

    @model_validator(mode="after")
    def _distinct(self) -> ExternalMapping:
        check_distinct(self.cameras)
        if isinstance(self.action, TargetAction) and (self.action.topic, self.action.field) == (
            self.pose.topic,
            self.pose.field,
        ):
            raise ValueError(f"action: topic {self.pose.topic} is the measured pose, expected a topic of targets")
        for name in (self.task, self.object, *(one.object for one in self.episodes if one.object)):
            if reason := fault(name):
                raise ValueError(f"object: {reason}")
        return self

    @property
    def action_config(self) -> ActionConfig:
        """Scale of the actions, and whether they move a gripper."""
        return ActionConfig(scale_m=self.scale_m, scale_rad=self.scale_rad, gripper=self.gripper_action is not None)

    def hash(self) -> str:
        """Hash of the mapping, of the same length as that of a task file."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def period_s(self) -> float:
        """Time between two Steps."""
        return 1.0 / self.rate_hz


def load_mapping(path: Path) -> ExternalMapping:
    """Read a mapping. Raises UserError `path: key: reason` on the first error."""
    return load_model(ExternalMapping, path, "mapping")
