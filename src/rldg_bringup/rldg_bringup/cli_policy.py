"""`rldg policy`: the policies of a running stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rldg_bringup.cli_common import Json, Namespace

policy_app = typer.Typer(help="Policies of a running stack: list, load, activate, unload.", no_args_is_help=True)


@policy_app.command("list")
def policy_list(namespace: Namespace = "", as_json: Json = False) -> None:
    """Show the policies of the running stack."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        response = client.list_policies()
    rows = [
        {"policy_id": p.policy_id, "backend": p.backend, "active": p.active, "version": int(p.version), "path": p.path}
        for p in response.policies
    ]
    if as_json:
        print(json.dumps({"policies": rows, "backends": list(response.backends)}))
        return
    table = Table("policy", "back-end", "active", "version", "path", title=f"back-ends: {', '.join(response.backends)}")
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    Console().print(table)


@policy_app.command("load")
def policy_load(
    policy_id: str,
    backend: str,
    path: Annotated[str, typer.Argument()] = "",
    activate: bool = False,
    explore: bool = False,
    namespace: Namespace = "",
) -> None:
    """Load and warm up a policy beside the active one."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        checkpoint = str(Path(path).resolve()) if path else ""
        client.load_policy(policy_id, backend, checkpoint, explore=explore, activate=activate)


@policy_app.command("activate")
def policy_activate(policy_id: str, namespace: Namespace = "") -> None:
    """Swap to a loaded policy between two ticks."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        client.activate_policy(policy_id)


@policy_app.command("unload")
def policy_unload(policy_id: str, namespace: Namespace = "") -> None:
    """Forget a loaded policy."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        client.unload_policy(policy_id)
