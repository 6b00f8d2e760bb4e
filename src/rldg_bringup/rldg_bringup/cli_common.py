"""Options, progress bars and output that the modules of the `rldg` command share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from rldg_core.configuration import first_mistake
from rldg_core.errors import UserError, one_line, quoted
from rldg_core.limits import range_text
from rldg_core.seeding import MAX_SEED

console = Console(stderr=True, markup=False, emoji=False)
"""For people. Texts are printed as they stand: Rich would take "[s]" and "[/tmp]" for markup."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
MANY = 1_000_000_000
"""Largest value of an option that counts something; a larger one is a typing error."""

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of all random numbers.")]
TaskArgument = Annotated[str, typer.Argument(help="Task: name, name:object, or a .yaml file.")]
Real = Annotated[bool, typer.Option("--real", help="The same as --robot with the robot of config/default_robots.yaml.")]
RobotOption = Annotated[str, typer.Option("--robot", help="Robot profile: a name or a .yaml file; default: simulated.")]
Namespace = Annotated[str, typer.Option(help="Namespace of the running stack.")]
Objects = Annotated[
    str, typer.Option(help="Comma-separated objects, used in turn; default: the default object of the task.")
]


class Commands(TyperGroup):
    """A group of commands that refuses the value of an option in one line, with what was found and expected."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command of the group. Raises UserError for an option or argument that its type refuses."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            raise UserError(_refusal(error)) from error


def _refusal(error: typer.BadParameter) -> str:
    param, mistake = error.param, error.__cause__
    if param is None or not isinstance(mistake, ValidationError):
        return error.format_message()
    name = max(param.opts, key=len)
    what = f"option {name}" if name.startswith("-") else f"argument {name}"
    first = mistake.errors(include_url=False)[0]
    low, high = getattr(param, "min", None), getattr(param, "max", None)
    if first["type"] in ("greater_than_equal", "less_than_equal"):
        return f"{what}: expected {range_text(low, high)}, got {quoted(first['input'])}"
    return f"{what}: {first_mistake(mistake)[1]}"


def sub_app() -> typer.Typer:
    """Make a group of commands that `rldg_bringup.cli` adds to `rldg`."""
    return typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with every dataclass parameter replaced by one parameter per field.

    typer reads the new signature, so that each field becomes an option; the command gets the dataclass. A field is
    annotated as an option is (`Annotated[type, typer.Option(...)]`).
    """
    hints = get_type_hints(command, include_extras=True)
    parameters: list[Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in signature(command).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind, kind=Parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(kind, include_extras=True)
        groups[name] = kind, [field.name for field in fields(kind)]
        for field in fields(kind):
            default = Parameter.empty if field.default is MISSING else field.default
            parameters.append(
                Parameter(field.name, Parameter.KEYWORD_ONLY, annotation=types[field.name], default=default)
            )

    def expanded(**given: Any) -> None:
        values = {name: kind(**{key: given.pop(key) for key in keys}) for name, (kind, keys) in groups.items()}
        command(**given, **values)

    expanded.__name__, expanded.__doc__ = command.__name__, command.__doc__
    expanded.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


@contextmanager
def progress_maker() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Show progress bars with the remaining time; yields a function that makes the callback of a named bar."""
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:

        def make(name: str) -> Callable[[int, int], None]:
            for earlier in bars.tasks:
                # A stage may end before its limit; stop its clock.
                bars.update(earlier.id, total=earlier.completed)
                bars.stop_task(earlier.id)
            bar = bars.add_task(name, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield make


def print_tables(*tables: Table) -> None:
    """Print results for a person on standard output, texts as they stand."""
    Console(markup=False, emoji=False).print(*tables)


def emit(value: Any, as_json: bool, title: str) -> None:
    """Print a flat mapping as JSON or as a table."""
    if as_json:
        print(json.dumps(value))
        return
    table = Table(title=title, show_header=False)
    for key, item in value.items():
        table.add_row(str(key), one_line(f"{item:.4g}" if isinstance(item, float) else str(item)))
    print_tables(table)


def names_in(objects: str) -> tuple[str, ...]:
    """Return the names in a value of the option `Objects`."""
    return tuple(name for name in objects.split(",") if name)


def existing(path: Path) -> None:
    """Raise UserError when there is nothing at `path`."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")


def robot_of(robot: str, real: bool) -> str:
    """The robot that `--robot` and `--real` name. Raises UserError for both."""
    from rldg_bringup.pipeline import share_dir
    from rldg_bringup.robots import SIMULATED, hardware_robot

    if not real:
        return robot or SIMULATED
    hardware = hardware_robot(share_dir())
    if robot:
        raise UserError(f"option --real: means --robot {hardware}, but --robot {robot} is given: expected one of them")
    return hardware
