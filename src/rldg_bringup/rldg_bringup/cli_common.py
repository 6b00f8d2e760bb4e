"""What the modules of the `rldg` command share: options, progress bars, output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rldg_core.errors import UserError
from rldg_core.seeding import MAX_SEED

console = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
MANY = 1_000_000_000
"""Of anything that is counted: a number beyond it is a slip of the keyboard."""

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")]
TaskArgument = Annotated[str, typer.Argument(help="Task: name, name:object, or a .yaml file.")]
Real = Annotated[bool, typer.Option("--real", help="The same as --robot fr3_ros.")]
RobotOption = Annotated[str, typer.Option("--robot", help="Robot profile: a name or a .yaml file; default: simulated.")]
Namespace = Annotated[str, typer.Option(help="Namespace of the running stack.")]
Objects = Annotated[str, typer.Option(help="Comma-separated, cycled through; default: the task's.")]


def sub_app() -> typer.Typer:
    """A group of commands that `rldg_bringup.cli` puts together."""
    return typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@contextmanager
def progress_maker() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress bars with time left; yields a function that makes the callback of a named bar."""
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
                # A stage may end before its limit; its clock must not run on.
                bars.update(earlier.id, total=earlier.completed)
                bars.stop_task(earlier.id)
            bar = bars.add_task(name, total=None)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        yield make


def emit(value: Any, as_json: bool, title: str) -> None:
    """Print a flat mapping for machines or for people."""
    if as_json:
        print(json.dumps(value))
        return
    table = Table(title=title, show_header=False)
    for key, item in value.items():
        table.add_row(str(key), f"{item:.4g}" if isinstance(item, float) else str(item))
    Console().print(table)


def names_in(objects: str) -> tuple[str, ...]:
    """Of an option `Objects`."""
    return tuple(name for name in objects.split(",") if name)


def existing(path: Path) -> None:
    """Raise UserError when there is nothing at `path`."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")


def robot_of(robot: str, real: bool) -> str:
    """The robot that `--robot` and `--real` name. Raises UserError for both."""
    from rldg_bringup.robots import HARDWARE, SIMULATED

    if robot and real:
        raise UserError(f"option --real: means --robot {HARDWARE}, but --robot {robot} is given: expected one of them")
    return robot or (HARDWARE if real else SIMULATED)
