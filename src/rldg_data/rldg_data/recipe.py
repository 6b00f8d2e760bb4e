"""Dataset recipe: a YAML file that says which bags become which dataset.

Sources (globs of bag folders, or of folders of bags, relative to the recipe's folder) -> filters -> pairs to
stitch -> caps and balance -> splits -> Plan. A Plan depends on the recipe and on the bags alone, never on the order
in which a directory lists them or on where the runs lie. Only metadata.yaml is read, except where a filter or a joint
needs Steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import date
from glob import escape
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rldg_core.configuration import load_model, validated
from rldg_data.plan import Plan

NOT_AN_IMAGE = ("state", "twist", "wrench", "timestamp")
"""Keys of an observation that no camera may take."""


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"{name!r}: expected lower-case letters, digits and _, starting with a letter")
    return name


def _checked_version(version: str) -> str:
    if not re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version, re.ASCII):
        raise ValueError(f"{version!r}: expected MAJOR.MINOR.PATCH, e.g. 1.0.0")
    return version


def _many(value: Any) -> Any:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_many), Field(min_length=1)]
SourceName = Literal["policy", "human", "scripted", "hold"]
Sources = Annotated[tuple[SourceName, ...], BeforeValidator(_many), Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Range(_Model):
    """Both ends belong to it; an absent one is open."""

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        low, high = getattr(self, "min", None), getattr(self, "max", None)
        if low is not None and high is not None and low > high:
            raise ValueError(f"min {low} exceeds max {high}")
        return self

    def holds(self, value: Any) -> bool:
        """Whether the value lies in it."""
        low, high = getattr(self, "min", None), getattr(self, "max", None)
        return (low is None or value >= low) and (high is None or value <= high)


class IntRange(_Range):
    """Of whole numbers."""

    min: int | None = None
    max: int | None = None


class ShareRange(_Range):
    """Of numbers in 0 .. 1."""

    min: Share | None = None
    max: Share | None = None


class DateRange(_Range):
    """Of days (UTC)."""

    min: date | None = None
    max: date | None = None


class Filter(_Model):
    """What a bag must be to be taken; None: no matter. The method keeps successful episodes only.

    source: who decided most of its actions; steps: transitions; no_op_ratio: share of transitions that hardly move
    (`rldg_data.selecting.no_op_ratio`); date: of custom_data.wall_time.
    """

    success: bool | None = True
    source: Sources | None = None
    policy_id: Texts | None = None
    policy_version: IntRange | None = None
    steps: IntRange | None = None
    no_op_ratio: ShareRange | None = None
    date: DateRange | None = None
    objects: Texts | None = None
    tasks: Texts | None = None


class Bags(_Model):
    """Globs of bags and which of them to take."""

    bags: Texts
    filter: Filter = Filter()


class BagSource(Bags):
    """Episodes as they were recorded. instruction replaces the recipe's."""

    max_episodes: Count | None = None
    max_episodes_per_object: Count | None = None
    instruction: str = ""


class Recipe(_Model):
    """A dataset.

    instruction: replaces the recorded one, with {task}, {object} and {recorded} filled in; seed: of the order of
    the episodes and so of every choice; images: how images are stored; cameras: key in the dataset -> camera of the
    Observation, default: `image` is the first camera of a bag.
    """

    name: Annotated[str, AfterValidator(_checked_name)]
    version: Annotated[str, AfterValidator(_checked_version)] = "1.0.0"
    description: str = ""
    seed: int = 0
    sources: Annotated[tuple[BagSource, ...], Field(min_length=1)]
    max_episodes: Count | None = None
    max_episodes_per_object: Count | None = None
    instruction: str = ""


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe. Raises UserError `path: key.path: reason` on the first mistake."""
    return load_model(Recipe, path, "recipe")


def quick_recipe(
    folders: Sequence[Path],
    name: str,
    version: str = "1.0.0",
    *,
    only_success: bool = False,
    source: str = "",
    max_episodes: int | None = None,
    max_episodes_per_object: int | None = None,
    seed: int = 0,
) -> Recipe:
    """The recipe of one command line: folders of bags, the commonest filters. Raises UserError as `load_recipe`."""
    data = {
        "name": name,
        "version": version,
        "seed": seed,
        "sources": [
            {
                "bags": [escape(str(folder.absolute())) for folder in folders],
                "filter": {"success": True if only_success else None, "source": source or None},
            }
        ],
        "max_episodes": max_episodes,
        "max_episodes_per_object": max_episodes_per_object,
    }
    return validated(Recipe, data, "dataset")


def make_plan(recipe: Recipe, base: Path, *, skip_bad: bool = False) -> Plan:
    """Decide what the dataset holds. base: folder that relative globs start from, the recipe's own.

    Raises UserError when a glob matches nothing, a bag is unreadable (with skip_bad it is passed over and listed in
    `Plan.bad`) or nothing is left.
    """
    from rldg_data import selecting

    selection = selecting.Selection(recipe.seed, skip_bad)
    chosen = selection.choose(recipe, base)
    return Plan(
        name=recipe.name,
        version=recipe.version,
        episodes=tuple(chosen),
        description=recipe.description,
        left_out=selection.left_out,
        bad=tuple(selection.bad),
        recipe=json.dumps(recipe.model_dump(mode="json", exclude_defaults=True), sort_keys=True),
    )
