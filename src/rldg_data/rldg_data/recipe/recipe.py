"""Dataset recipe: a YAML file that says which bags become which dataset.

Sources (globs of bag folders, or of folders of bags, relative to the recipe's folder) -> filters -> pairs to
stitch -> caps and balance -> splits -> Plan. A Plan depends on the recipe and on the bags alone, never on the order
in which a directory lists them. Only metadata.yaml is read, except where a filter or a joint needs Steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from glob import escape
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from rldg_core.configuration import Count, FrozenModel, NonNegativeCount, Positive, load_model, validated
from rldg_core.errors import UserError
from rldg_core.seeding import MAX_SEED
from rldg_data.episodes.episode import IMAGE_KEY
from rldg_data.plan import is_valid_name, is_valid_version

NOT_A_CAMERA = ("state", "twist", "wrench", "timestamp")
"""Keys of an observation that no camera may take."""
TEMPLATE_FIELDS = ("task", "object", "recorded")
"""Fields allowed in braces in an instruction; recorded: the instruction in the bag."""


def _checked_name(name: str) -> str:
    if not is_valid_name(name):
        raise ValueError(f"{name!r}: expected lower-case letters, digits and _, starting with a letter")
    return name


def _checked_version(version: str) -> str:
    if not is_valid_version(version):
        raise ValueError(f"{version!r}: expected MAJOR.MINOR.PATCH, e.g. 1.0.0")
    return version


def _checked_template(text: str) -> str:
    parts = list(Formatter().parse(text))
    for _, name, specification, conversion in parts:
        if name is not None and (name not in TEMPLATE_FIELDS or specification or conversion):
            raise ValueError(f"{text!r}: expected only {', '.join(TEMPLATE_FIELDS)} in braces")
    return text


def _checked_cameras(cameras: dict[str, str]) -> dict[str, str]:
    if IMAGE_KEY not in cameras:
        raise ValueError(f"no camera for the key {IMAGE_KEY!r}, which generalists read")
    for key in cameras:
        _checked_name(key)
        if key in NOT_A_CAMERA:
            raise ValueError(f"{key!r}: reserved for the observation's {key}")
    return cameras


def _many(value: Any) -> Any:
    """Accept a string as a list of one."""
    return [value] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_many), Field(min_length=1)]
Template = Annotated[str, AfterValidator(_checked_template)]
Sources = Annotated[
    tuple[Literal["policy", "human", "scripted", "hold"], ...], BeforeValidator(_many), Field(min_length=1)
]
Share = Annotated[float, Field(ge=0, le=1)]


class _Range(FrozenModel):
    """Inclusive range; an absent end is open."""

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
    """Range of integers."""

    min: NonNegativeCount | None = None
    max: NonNegativeCount | None = None


class ShareRange(_Range):
    """Range of numbers in 0 .. 1."""

    min: Share | None = None
    max: Share | None = None


class DateRange(_Range):
    """Range of days (UTC)."""

    min: date | None = None
    max: date | None = None


class Filter(FrozenModel):
    """Filter of bags; null: no filter. By default only successful episodes are kept, as in the paper.

    source: of most of its actions; steps: transitions; no_op_ratio: share of transitions that hardly move
    (`rldg_data.recipe.selecting.no_op_ratio`); date: of custom_data.wall_time.
    """

    success: bool | None = True
    source: Sources | None = None
    policy_id: Texts | None = None
    policy_version: IntRange | None = None
    steps: IntRange | None = None
    date: DateRange | None = None
    objects: Texts | None = None
    tasks: Texts | None = None
    no_op_ratio: ShareRange | None = None


class Segment(FrozenModel):
    """One side of a stitch: globs, filter, and how many episodes one bag may be part of."""

    bags: Texts
    filter: Filter = Filter()
    uses: Count = 1


class Stitch(FrozenModel):
    """Pairs of bags that become one episode (FMB Assembly: a person grasps and carries, RL inserts).

    Two bags are joined when their object is the same and the tcp of `second`'s first Step is within tolerance of the
    tcp of `first` at the joint. cut `end`: the joint is the last Step of `first`; `nearest`: the Step that is nearest
    (a demonstration of the whole task, whose remainder is dropped).
    """

    first: Segment
    second: Segment
    cut: Literal["end", "nearest"] = "end"
    tolerance_m: Positive
    tolerance_rad: Positive


class RelabelConfig(FrozenModel):
    """Executed actions of `sources` are replaced by a policy's; see `rldg_data.plan.Relabel`.

    path: of the checkpoint, relative to the recipe; task: name or path of the task the policy was made for;
    policy_id: default the back-end's name.
    """

    backend: Text = "specialist"
    path: Path | None = None
    task: Text
    sources: Sources = ("human",)
    policy_id: str = ""


class _Caps(FrozenModel):
    """Maximum numbers, in the shuffled order."""

    max_episodes: Count | None = None
    max_episodes_per_object: Count | None = None
    max_steps: Count | None = None


class Source(_Caps):
    """Recorded episodes (`bags`) or joined ones (`stitch`), with what differs from the recipe's own keys."""

    bags: Texts | None = None
    stitch: Stitch | None = None
    filter: Filter | None = None
    instruction: Template = ""
    relabel: RelabelConfig | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        if (self.bags is None) == (self.stitch is None):
            raise ValueError("a source has either bags or stitch")
        if self.stitch is not None and self.filter is not None:
            raise ValueError("set the filters of a stitch in its first and second")
        return self


class Split(FrozenModel):
    """The held-out split `val`: a share or a number of the episodes, with every object."""

    val_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    val_episodes: Count | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Split:
        if (self.val_share is None) == (self.val_episodes is None):
            raise ValueError("a split has either val_share or val_episodes")
        return self


class Images(FrozenModel):
    """How images are stored. size_px: side of the square, null: as recorded; jpeg_quality: of what must be encoded."""

    size_px: Annotated[int, Field(ge=16, le=4096)] | None = None
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95


class Recipe(_Caps):
    """A dataset.

    filter, instruction, relabel: of every source that has none of its own; instruction: replaces the recorded one,
    with {task}, {object} and {recorded} filled in; seed: of the order of the episodes and so of every choice; balance
    `object`: equally many episodes of every object; cameras: key in the dataset -> camera of the Observation,
    default: `image` is the first camera of a bag.
    """

    name: Annotated[str, AfterValidator(_checked_name)]
    version: Annotated[str, AfterValidator(_checked_version)] = "1.0.0"
    description: str = ""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    filter: Filter = Filter()
    instruction: Template = ""
    relabel: RelabelConfig | None = None
    balance: Literal["object"] | None = None
    split: Split | None = None
    cameras: Annotated[dict[str, Text], AfterValidator(_checked_cameras)] | None = None
    images: Images = Images()
    _file: Path | None = PrivateAttr(default=None)

    @property
    def where(self) -> str:
        """For messages: its file, or the dataset's name."""
        return str(self._file or f"dataset {self.name}")


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe. Raises UserError `path: key.path: reason` on the first error."""
    recipe = load_model(Recipe, path, "recipe")
    recipe._file = path
    return recipe


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
    """Make a recipe from options: folders of bags and common filters. Raises UserError as `load_recipe`."""
    if not folders:
        raise UserError("dataset: no folder of bags given")
    data = {
        "name": name,
        "version": version,
        "seed": seed,
        "sources": [{"bags": [escape(str(folder.absolute())) for folder in folders]}],
        "filter": {"success": True if only_success else None, "source": source or None},
        "max_episodes": max_episodes,
        "max_episodes_per_object": max_episodes_per_object,
    }
    return validated(Recipe, data, "dataset")
