"""Scenes by kind: the entry points of group `rldg.scenes`, one class of configuration per kind.

A kind of scene is a subclass of SceneConfig in any distribution. Task files are validated with it by every reader,
so its module should not import the simulator when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from rldg_core.errors import UserError
from rldg_core.plugins import Plugins

DEFAULT = "default"
"""Entry point of the scene of a task file that has no key `scene`."""

_SCENES = Plugins("rldg.scenes", "scene kind", hidden=(DEFAULT,))


Realism = Literal["ideal", "bench", "hard"]
"""Presets of the simulated cell's errors (rldg_sim.realism.presets)."""


class SceneConfig(BaseModel):
    """What every kind of scene has.

    Visual randomisation, 0 switches each off: light, colour: relative; camera_m [m], camera_rad [rad]: of the
    cameras' mounts, uniform +-. realism: preset of noise, offsets, delays and friction.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    specialist: ClassVar[Mapping[str, Any]] = {}
    """Learner configuration of specialists of this kind (`preset`, `features`, ...), as in a learner file."""

    light: Annotated[float, Field(ge=0, le=1)] = 0.3
    colour: Annotated[float, Field(ge=0, le=1)] = 0.1
    camera_m: Annotated[float, Field(ge=0, le=0.01)] = 0.001
    camera_rad: Annotated[float, Field(ge=0, le=0.1)] = 0.005
    realism: Realism = "bench"
    kind: str


def scene_kinds() -> list[str]:
    """Kinds that are installed, sorted."""
    return _SCENES.names()


@cache
def scene_class(kind: str) -> type[SceneConfig]:
    """Import the configuration class of a kind. Raises UserError naming the kinds that are installed."""
    found = _SCENES.load(kind)
    where = _SCENES.describe(_SCENES.entry_point(kind))
    if not (isinstance(found, type) and issubclass(found, SceneConfig)):
        raise UserError(f"{where} is not a subclass of rldg_core.scenes.SceneConfig")
    says = found.model_fields["kind"].default
    if kind not in (says, DEFAULT):
        raise UserError(f"{where} has the kind {says!r}; both must be the same")
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
