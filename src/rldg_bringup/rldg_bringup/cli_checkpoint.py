"""`rldg checkpoint`: checkpoint folders of generalists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rldg_bringup.cli_common import Json, emit, existing, sub_app
from rldg_policy.generalist import adoptable

app = sub_app()

Folder = Annotated[Path, typer.Argument(help="Checkpoint folder.")]


def _check_backend(name: str) -> str:
    if name not in adoptable():
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, adoptable()))}.")
    return name


@app.callback()
def _group() -> None:
    """Checkpoints of generalists: show what one expects, and adopt one that was trained elsewhere."""


@app.command()
def adopt(
    folder: Folder,
    backend: Annotated[
        str, typer.Option(help=f"Generalist that wrote it: {' or '.join(adoptable())}.", callback=_check_backend)
    ],
    statistics_key: Annotated[
        str,
        typer.Option(help="Entry of its dataset_statistics.json that its actions were normalised with (unnorm_key)."),
    ],
    camera: Annotated[
        str, typer.Option(help="Camera of its training data: the image of the observation that it gets.")
    ],
    rate_hz: Annotated[
        float,
        typer.Option(
            min=0.01, max=1000, help="Steps per second in its training data: the control rate of its actions."
        ),
    ],
    window: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Observations per inference of Octo; default: as in training."),
    ] = None,
    inference_hz: Annotated[
        float | None,
        typer.Option(min=0.01, max=1000, help="Inferences per second; default: openvla 4, octo one per control step."),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Task that it may serve; may be repeated. Default: any.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write rldg.json into an upstream checkpoint, so that it can be served; its own files are not changed."""
    from rldg_policy.checkpoint.adopt import adopt as run

    existing(folder)
    options = {"camera": camera, "window": window, "rate_hz": rate_hz, "inference_hz": inference_hz}
    given = {name: value for name, value in options.items() if value is not None}
    manifest = run(folder, backend, statistics_key, {**given, "tasks": tuple(task or ())})
    emit({"path": str(folder), **manifest.model_dump(mode="json")}, as_json, "checkpoint")


@app.command()
def rate(
    folder: Folder,
    control_hz: Annotated[
        float, typer.Argument(min=0.01, max=1000, help="Control rate of the stack that will run it [Hz].")
    ],
    as_json: Json = False,
) -> None:
    """Allow a control rate other than that of the training data: each action then takes 1 / CONTROL_HZ seconds."""
    from rldg_policy.checkpoint.manifest import allow_rate

    existing(folder)
    manifest = allow_rate(folder, control_hz)
    emit({"path": str(folder), "control_rates_hz": list(manifest.control_rates_hz)}, as_json, "checkpoint")


@app.command()
def info(folder: Folder, as_json: Json = False) -> None:
    """Show what input a checkpoint expects and how large its actions are."""
    from rldg_policy.checkpoint.adopt import describe

    existing(folder)
    emit(describe(folder), as_json, "checkpoint")
