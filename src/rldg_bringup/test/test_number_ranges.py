"""Every number that a user sets has a range: options of commands and keys of configurations."""

from __future__ import annotations

import importlib
import pkgutil
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from typer.models import ParameterInfo
from typer.testing import CliRunner

import rldg_core
import rldg_data
import rldg_policy
import rldg_rl
import rldg_sim
from rldg_bringup.cli import app
from rldg_core.errors import UserError

DERIVED = {"rldg_policy.octo.random"}
"""Models that users do not write."""


def options(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (command and parameter, its ParameterInfo) of every parameter that takes a number."""
    for command in group.registered_commands:
        assert command.callback
        name = " ".join((*path, command.name or command.callback.__name__))
        for parameter, annotation in get_type_hints(command.callback, include_extras=True).items():
            arguments = get_args(annotation)
            mentioned = {annotation, *arguments, *(a for argument in arguments for a in get_args(argument))}
            if {int, float} & {m for m in mentioned if isinstance(m, type)}:
                yield f"{name} {parameter}", next((a for a in arguments if isinstance(a, ParameterInfo)), None)
    for inner in group.registered_groups:
        assert inner.typer_instance
        name = inner.name if isinstance(inner.name, str) else ""
        yield from options(inner.typer_instance, (*path, name) if name else path)


OPTIONS = dict(options(app))


def test_search_finds_known_options() -> None:
    assert {"train seed", "finetune compact learning_rate", "run episodes", "classifier train precision"} <= set(
        OPTIONS
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_options_have_bounds(name: str) -> None:
    info = OPTIONS[name]
    assert info is not None and info.min is not None and info.max is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "insertion", "--seed", "-1"),
        ("train", "insertion", "--seed", str(2**32)),
        ("train", "insertion", "--seed", "9" * 5000),
        ("train", "insertion", "--success-rate", "nan"),
        ("train", "insertion", "--success-rate", "inf"),
        ("train", "insertion", "--updates-per-step", "nan"),
        ("train", "insertion", "--max-steps", "0"),
        ("run", "--episodes", "-5"),
        ("run", "--episodes", "1e3"),
        ("record", "insertion", "--seed", "-1"),
        ("finetune", "compact", "d", "--learning-rate", "nan"),
        ("finetune", "openvla", "d", "--batch", "0"),
        ("checkpoint", "adopt", "d", "--rate-hz", "-1"),
        ("policy", "serve", "d", "--port", "65536"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert isinstance(done.exception, UserError)  # `main` prints it and ends with code 2
    assert str(done.exception).startswith(f"option {arguments[-2]}: ")


def models() -> list[type[BaseModel]]:
    for package in (rldg_core, rldg_data, rldg_policy, rldg_rl, rldg_sim):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".nodes" not in module.name:
                importlib.import_module(module.name)

    def below(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
        for child in model.__subclasses__():
            yield child
            yield from below(child)

    return sorted({m for m in below(BaseModel) if m.__module__.startswith("rldg_")}, key=str)


def numbers(annotation: Any, metadata: list[Any], path: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield (path, constraints) of every int and float in an annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (int, float):
        yield path, metadata
    elif origin is Annotated:
        yield from numbers(arguments[0], [*metadata, *arguments[1:]], path)
    elif origin is not None and origin is not Literal:
        for index, argument in enumerate(arguments):
            inherited = metadata if origin in (Union, types.UnionType) else []
            yield from numbers(argument, inherited, path if inherited else f"{path}[{index}]")


def unbounded(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        for path, metadata in numbers(field.annotation, field.metadata, name):
            constraints = [c for m in metadata for c in getattr(m, "metadata", [m])]
            low = any(isinstance(c, Ge | Gt) for c in constraints)
            high = any(isinstance(c, Le | Lt) for c in constraints)
            if not (low and high):
                yield f"{model.__module__}.{model.__name__}.{path}"


def test_keys_of_configurations_have_bounds() -> None:
    found = models()
    assert {"Task", "Recipe", "RLConfig", "TrainConfig", "ExternalMapping"} <= {m.__name__ for m in found}
    assert [key for model in found if model.__module__ not in DERIVED for key in unbounded(model)] == []
