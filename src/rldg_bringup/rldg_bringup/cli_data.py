"""`rldg export`, `rldg bag`: recorded episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rldg_bringup.cli_common import Json, Seed, emit, existing, progress_maker, sub_app
from rldg_core.errors import UserError

app = sub_app()
bag_app = typer.Typer(help="Recorded episodes.", no_args_is_help=True)
app.add_typer(bag_app, name="bag")


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


@bag_app.command("info")
def bag_info(path: Path, as_json: Json = False) -> None:
    """Show what a bag, or every bag of a folder, holds."""
    from rldg_data.bags import bag_info as read_info
    from rldg_data.bags import find_bags

    existing(path)
    bags = [path] if (path / "metadata.yaml").is_file() else find_bags(path)
    if not bags:
        raise UserError(f"{path}: no bags in it")
    infos = [(bag, read_info(bag)) for bag in bags]
    if as_json:
        print(json.dumps([{"path": str(bag), **info.custom_data} for bag, info in infos]))
        return
    table = Table("bag", "task", "object", "success", "source", "policy", "version", "steps")
    for bag, info in infos:
        data = info.custom_data
        keys = ("task", "object", "success", "source", "policy_id", "policy_version", "steps")
        table.add_row(bag.name, *(str(data.get(k, "")) for k in keys))
    Console().print(table)
