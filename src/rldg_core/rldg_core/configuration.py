"""Configuration files: YAML -> validated pydantic model; every error is reported in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yaml.constructor import ConstructorError

from rldg_core.errors import UserError, quoted
from rldg_core.files import MAX_DEPTH, MAX_DIGITS, MAX_TEXT_BYTES, read_text

M = TypeVar("M", bound=BaseModel)

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
NonNegativeCount = Annotated[int, Field(ge=0, le=1_000_000_000)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class FrozenModel(BaseModel):
    """Immutable configuration; unknown keys are refused. Validators are built on first use, since imports are timed."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


MAX_CONFIGURATION_BYTES = 2**20
"""Maximum size of a file written by hand."""

MAX_NODES = 500_000
"""Maximum number of YAML values with aliases expanded; a scalar counts 1, plus 1 for every 64 characters."""

_TELLING = ("value_error", "assertion_error", "extra_forbidden", "invalid_key", "union_tag_invalid", "scene_kind")
"""Types of pydantic's errors whose message holds the value, or whose value is of no interest."""

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*)\.[0-9_]*([eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class _Loader(yaml.CSafeLoader):
    """YAML whose values are those of JSON: no dates, no sets, no bytes, no base-60 numbers."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
                if (key.tag, key.value) in seen:
                    problem = f"key {quoted(key.value)} comes twice"
                    raise _refusal(problem, key)
                seen.add((key.tag, key.value))
        value: dict[Any, Any] = super().construct_mapping(node, deep)
        return value

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        if len(node.value) > MAX_DIGITS:
            problem = f"a number of {len(node.value)} digits, expected at most {MAX_DIGITS}"
            raise _refusal(problem, node)
        constructor = yaml.CSafeLoader.yaml_constructors[node.tag]
        value: int | float = constructor(self, node)
        return value


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.CSafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in ("null", "bool", "str", "seq", "map")
}
for _first, _resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        if _tag in (f"{_TAG}null", f"{_TAG}bool", f"{_TAG}merge"):
            _Loader.add_implicit_resolver(_tag, _pattern, [_first])
_Loader.add_implicit_resolver(f"{_TAG}int", re.compile(f"(?:{_INTEGER.pattern})$"), list("-+0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+0123456789."))
for _name in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_name}", _Loader.construct_number)


def read_yaml(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Read YAML; a missing, malformed or oversized file raises a UserError that names it. Dates stay text."""
    return parse_yaml(read_text(path, max_bytes), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML. Raises UserError `where: line N: not valid YAML: reason`, also when a limit is exceeded.

    Limits: MAX_NODES with aliases expanded, MAX_DEPTH, MAX_DIGITS. Duplicate keys are refused.
    """
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        reason = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}:{line} not valid YAML: {reason}") from error


def _check_size(text: str) -> None:
    """Count the nodes of the expanded text from its events, so that nothing is built before its size is known."""
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []  # anchor, and how many nodes came before it
    nodes = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise _refusal(f"alias {event.anchor!r} refers to itself", event)
            nodes += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // 64
            nodes += size
            if event.anchor:
                sizes[event.anchor] = size
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, nodes))
            nodes += 1
            if len(opened) > MAX_DEPTH:
                raise _refusal(f"more than {MAX_DEPTH} levels", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor:
                sizes[anchor] = nodes - before
        if nodes > MAX_NODES:
            problem = f"more than {MAX_NODES:,} values with aliases expanded"
            raise _refusal(problem, event)


def _refusal(problem: str, place: Any) -> ConstructorError:
    """place: a node or an event."""
    return ConstructorError(None, None, problem, place.start_mark)


def load_model(model: type[M], path: Path, what: str, overrides: Mapping[str, Any] | None = None) -> M:
    """Read and validate a YAML file that holds one mapping.

    what: kind of file, for messages ("task", "recipe"); overrides: top-level keys that replace those of the
    file. Raises UserError `path: key.path: reason` on the first error.
    """
    data = read_yaml(path, MAX_CONFIGURATION_BYTES)
    if not isinstance(data, dict):
        raise UserError(f"{path}: {type(data).__name__}, expected a mapping (a {what} file)")
    return validated(model, {**data, **(overrides or {})}, str(path))


def validated(model: type[M], data: Any, where: str) -> M:
    """Validate what a file or command holds. Raises UserError `where: key.path: reason` on the first error."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        loc, reason = first_mistake(error)
        key = ".".join(str(part) if str(part).isprintable() else repr(part) for part in loc)
        raise UserError(f"{where}: {key + ': ' if key else ''}{reason}") from error


def first_mistake(error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Return where the first mistake is (keys and indices) and the reason, with the value found where it is one."""
    first = error.errors(include_url=False)[0]
    reason, found = first["msg"].removeprefix("Value error, "), first["input"]
    # Reasons of our own validators say what they found.
    is_told = first["type"] in _TELLING or not isinstance(found, bool | int | float | str)
    return first["loc"], reason if is_told else f"{reason}, got {quoted(found)}"
