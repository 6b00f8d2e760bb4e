"""`rldg checkpoint`: folders of generalists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rldg_bringup.cli_common import Json, emit, existing, sub_app

app = sub_app()

Folder = Annotated[Path, typer.Argument(help="Checkpoint folder.")]


@app.callback()
def _group() -> None:
    """Checkpoints of generalists: what they expect, and adopting one that was trained elsewhere."""


@app.command()
def adopt(
    folder: Folder,
    backend: Annotated[Literal["openvla", "octo"], typer.Option(help="What it is a checkpoint of.")],
    statistics_key: Annotated[
        str, typer.Option(help="Which entry of its dataset_statistics.json its actions belong to (unnorm_key).")
    ],
    camera: Annotated[str, typer.Option(help="Which image of the observation it sees: the camera of its data.")],
    rate_hz: Annotated[
        float,
        typer.Option(min=0.01, max=1000, help="Steps per second in its data: the control rate of its actions."),
    ],
    window: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Observations that Octo sees; default: as many as it was trained with."),
    ] = None,
    inference_hz: Annotated[
        float | None,
        typer.Option(min=0.01, max=1000, help="Inferences per second; default: openvla 4, octo one per control step."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task it may serve; repeat. Default: any.")] = None,
    as_json: Json = False,
) -> None:
    """Write rldg.json into an upstream checkpoint, so that it can be served; its own files stay as they are."""
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
        float, typer.Argument(min=0.01, max=1000, help="Control rate of the stack that is to run it.")
    ],
    as_json: Json = False,
) -> None:
    """Allow a control rate other than that of its data: every action then takes 1 / CONTROL_HZ seconds."""
    from rldg_policy.checkpoint.manifest import allow_rate

    existing(folder)
    manifest = allow_rate(folder, control_hz)
    emit({"path": str(folder), "control_rates_hz": list(manifest.control_rates_hz)}, as_json, "checkpoint")


@app.command()
def info(folder: Folder, as_json: Json = False) -> None:
    """Show what a checkpoint expects to see and how far its actions reach."""
    from rldg_policy.checkpoint.adopt import describe

    existing(folder)
    emit(describe(folder), as_json, "checkpoint")
