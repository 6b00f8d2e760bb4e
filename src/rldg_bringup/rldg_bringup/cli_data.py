"""`rldg export`: recorded episodes to datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rldg_bringup.cli_common import Json, Seed, emit, existing, progress_maker, sub_app

app = sub_app()


@app.command()
def export(
    bags: Annotated[list[Path], typer.Argument(help="Folders of bags.")],
    out: Annotated[Path, typer.Option(help="Root of the datasets.")],
    name: Annotated[str, typer.Option(help="Name of the dataset.")],
    version: Annotated[str, typer.Option()] = "1.0.0",
    only_success: Annotated[bool, typer.Option(help="Keep successful episodes only.")] = True,
    source: Annotated[str, typer.Option(help="Keep this source only: policy, scripted, human.")] = "",
    max_episodes: Annotated[int | None, typer.Option(min=1)] = None,
    max_episodes_per_object: Annotated[int | None, typer.Option(min=1, help="Balance the objects.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing dataset.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export bags to an RLDS dataset, as TFDS, OpenVLA and Octo read it."""
    from rldg_data.export import export_dataset

    for folder in bags:
        existing(folder)
    with progress_maker() as make:
        result = export_dataset(
            bags,
            out,
            name,
            version,
            only_success=only_success,
            source=source,
            max_episodes=max_episodes,
            max_episodes_per_object=max_episodes_per_object,
            seed=seed,
            overwrite=overwrite,
            progress=make("export"),
        )
    emit({"path": str(result.path), "episodes": result.episodes, "steps": result.steps}, as_json, "dataset")
