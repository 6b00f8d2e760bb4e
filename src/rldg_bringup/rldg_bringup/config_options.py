"""Command-line options from a pydantic model: the fields with a description, those of nested models included."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rldg_core.errors import UserError
from rldg_policy.generalist import Option

_SCALARS = (bool, int, float, str)


@dataclass(frozen=True)
class ConfigOption:
    """One option.

    name: Python parameter; path: keys of the field, starting at the outermost model; annotation: type with help text
    and range, for typer; default: that of the field, None for a list.
    """

    name: str
    path: tuple[str, ...]
    annotation: Any
    default: Any


def options_of(model: type[BaseModel], where: str, path: tuple[str, ...] = ()) -> list[ConfigOption]:
    """Return the options of a configuration model, in the order of its fields.

    A field whose default is a model is replaced by that model's options. Raises UserError `where: field: reason` on a
    field with a description that is required or whose type no option can have.
    """
    return list(_options(model, where, path))


def _options(model: type[BaseModel], where: str, path: tuple[str, ...]) -> Iterator[ConfigOption]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        if isinstance(field.default, BaseModel):
            yield from _options(type(field.default), where, here)
        elif field.description is not None:
            yield _option(field, here, f"{where}: {'.'.join(here)}")


def _option(field: FieldInfo, path: tuple[str, ...], where: str) -> ConfigOption:
    if field.is_required():
        raise UserError(f"{where}: a default is required for an option")
    renamed = [item.name for item in field.metadata if isinstance(item, Option)]
    kind, constraints = _typer_type(field.annotation, where)
    bounds = [*field.metadata, *constraints]
    low = [b.ge if isinstance(b, Ge) else b.gt for b in bounds if isinstance(b, Ge | Gt)]
    high = [b.le if isinstance(b, Le) else b.lt for b in bounds if isinstance(b, Le | Lt)]
    info = typer.Option(help=field.description, min=next(iter(low), None), max=next(iter(high), None))  # type: ignore[arg-type]
    default = field.get_default(call_default_factory=True)
    if isinstance(default, tuple):
        default = list(default) or None
    return ConfigOption(next(iter(renamed), path[-1]), path, Annotated[kind, info], default)


def _typer_type(annotation: Any, where: str) -> tuple[Any, list[Any]]:
    """Return the type of a field as typer accepts it, and the constraints of its numbers."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS or origin is Literal:
        return annotation, []
    if origin is Annotated:
        kind, inner = _typer_type(arguments[0], where)
        own = [constraint for item in arguments[1:] for constraint in getattr(item, "metadata", [item])]
        return kind, [*inner, *own]
    if origin in (Union, types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        kind, inner = _typer_type(next(a for a in arguments if a is not type(None)), where)
        return kind | None, inner
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        kind, inner = _typer_type(arguments[0], where)
        return list[kind] | None, inner  # type: ignore[valid-type]
    raise UserError(f"{where}: type {annotation}, expected bool, int, float, str, Literal, or tuple[..., ...] of these")


def nested_values(options: Sequence[ConfigOption], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the options as nested mappings for the model; None keeps the default of a field."""
    values: dict[str, Any] = {}
    for option in options:
        if (value := given[option.name]) is None:
            continue
        inner = values
        for key in option.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[option.path[-1]] = tuple(value) if isinstance(value, list) else value
    return values
