"""`rldg dataset`: check, describe and import datasets on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rldg_bringup.cli_common import Json, TaskArgument, console, emit, existing, sub_app

app = sub_app()


@app.callback()
def _group() -> None:
    """Datasets on disk."""


@app.command()
def lint(
    path: Annotated[Path, typer.Argument(help="A dataset <root>/<name>/<version>, or a folder of bags.")],
    as_json: Json = False,
) -> None:
    """Check a dataset or a folder of bags; print one line per finding.

    Exit code 0: no finding of severity error; 1: at least one; 2: PATH is neither a dataset nor a folder of bags, or
    cannot be read.
    """
    from rldg_bringup.lint_output import report
    from rldg_data.lint import lint as run

    existing(path)
    raise typer.Exit(report(str(path), run(path), as_json))


@app.command()
def card(
    path: Annotated[Path, typer.Argument(help="A dataset <root>/<name>/<version>.")],
    as_json: Json = False,
) -> None:
    """Write README.md with images into a dataset: counts, sources, histograms, sample frames, how to load it."""
    from rldg_data.card import write_card

    existing(path)
    emit({"path": str(write_card(path))}, as_json, "card")


@app.command("import")
def import_lerobot(
    path: Annotated[Path, typer.Argument(help="LeRobot dataset v3: the folder with meta/ and data/.")],
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    names: Annotated[
        Path | None, typer.Option(help="YAML file that names the features of images, state and action.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip bad episodes and list them.")] = False,
    as_json: Json = False,
) -> None:
    """Write the episodes of a LeRobot dataset as bags of a task."""
    from rldg_bringup.pipeline import resolve_task
    from rldg_data.lerobot.components import load_feature_names
    from rldg_data.lerobot.importing import import_dataset

    existing(path)
    settings = resolve_task(task)
    features = load_feature_names(names) if names else None
    result = import_dataset(path, out, settings, features, skip_bad=skip_bad)
    if abs(result.rate_hz - settings.rate_hz) > 0.1 * settings.rate_hz:
        console.print(
            f"warning: {result.rate_hz:g} steps per second, task {settings.name} has {settings.rate_hz:g}: policies "
            "trained on these bags can be served only at the rate of the bags",
            highlight=False,
            soft_wrap=True,
        )
    for number, reason in result.skipped:
        console.print(f"skipped: episode {number}: {reason}", highlight=False, soft_wrap=True)
    values = {
        "path": str(out),
        "episodes": result.episodes,
        "steps": result.steps,
        "clipped": result.clipped,
        "rate_hz": result.rate_hz,
    }
    emit({**values, "skipped": len(result.skipped)}, as_json, "bags")
