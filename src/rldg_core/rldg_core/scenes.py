"""Scenes by kind: the entry points of group `rldg.scenes`, one class of configuration per kind.

A kind of scene is a subclass of SceneConfig in any distribution. Task files are validated with it by every reader,
so its module should not import the simulator when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from rldg_core.errors import UserError, quoted

ENTRY_POINT_GROUP = "rldg.scenes"
DEFAULT = "default"
"""Entry point of the scene of a task file that has no key `scene`."""


class SceneConfig(BaseModel):
    """What every kind of scene has: visual randomisation of the simulated cell; 0 switches each off.

    light, colour: relative; camera_m [m], camera_rad [rad]: of the cameras' mounts, uniform +-.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    specialist: ClassVar[Mapping[str, Any]] = {}
    """Learner configuration of specialists of this kind (`preset`, `features`, ...), as in a learner file."""

    light: Annotated[float, Field(ge=0, le=1)] = 0.3
    colour: Annotated[float, Field(ge=0, le=1)] = 0.1
    camera_m: Annotated[float, Field(ge=0, le=0.01)] = 0.001
    camera_rad: Annotated[float, Field(ge=0, le=0.1)] = 0.005
    kind: str


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def scene_kinds() -> list[str]:
    """Kinds that are installed, sorted."""
    return sorted(_entry_points().keys() - {DEFAULT})


@cache
def scene_class(kind: str) -> type[SceneConfig]:
    """Import the configuration class of a kind. Raises UserError naming the kinds that are installed."""
    entry = _entry_points().get(kind)
    if entry is None:
        known = ", ".join(scene_kinds()) or "none"
        raise UserError(f"no kind of scene {quoted(kind)} is installed, expected one of {known}")
    try:
        found = entry.load()
    except Exception as error:  # a plug-in: whatever its import raises
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"scene kind {kind!r}: {entry.value} cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, SceneConfig)):
        raise UserError(f"scene kind {kind!r}: {entry.value} is not a subclass of rldg_core.scenes.SceneConfig")
    says = found.model_fields["kind"].default
    if kind not in (says, DEFAULT):
        raise UserError(f"scene kind {kind!r}: {entry.value} has the kind {says!r}; both must be the same")
    return found


def default_scene() -> SceneConfig:
    """Return the scene of a task file that has none."""
    return scene_class(DEFAULT).model_validate({})


def validate_scene(value: Any) -> SceneConfig:
    """Pydantic validator: mapping with the key `kind` -> instance of the kind's class."""
    if isinstance(value, SceneConfig):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping, got {type(value).__name__}")
    try:
        schema = scene_class(str(value.get("kind", "")))
    except UserError as error:
        reason = PydanticCustomError("scene_kind", "{reason}", {"reason": str(error)})
        raise ValidationError.from_exception_data(
            "scene", [InitErrorDetails(type=reason, loc=("kind",), input=value)]
        ) from error
    return schema.model_validate(value)
