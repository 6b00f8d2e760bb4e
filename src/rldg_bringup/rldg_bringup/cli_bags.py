"""`rldg bag`: recorded episodes on disk."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rldg_bringup.cli_common import Json, existing, sub_app
from rldg_core.errors import UserError

app = sub_app()


@app.callback()
def _group() -> None:
    """Recorded episodes."""


@app.command()
def info(path: Path, as_json: Json = False) -> None:
    """Show what a bag, or every bag of a folder, holds."""
    from rldg_data.bags import bag_info, find_bags

    existing(path)
    bags = [path] if (path / "metadata.yaml").is_file() else find_bags(path)
    if not bags:
        raise UserError(f"{path}: no bags in it")
    infos = [(bag, bag_info(bag)) for bag in bags]
    if as_json:
        print(json.dumps([{"path": str(bag), **one.custom_data} for bag, one in infos]))
        return
    table = Table("bag", "task", "object", "success", "source", "policy", "version", "steps")
    for bag, one in infos:
        keys = ("task", "object", "success", "source", "policy_id", "policy_version", "steps")
        table.add_row(bag.name, *(str(one.custom_data.get(k, "")) for k in keys))
    Console().print(table)
