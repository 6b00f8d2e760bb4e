"""`rldg policy`: list, load, activate and unload the policies of a running stack; serve one policy over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from rldg_bringup.cli_common import Json, Namespace, console, print_tables
from rldg_core.errors import UserError

policy_app = typer.Typer(
    help="Policies of a running stack: list, load, activate, unload; serve one without a stack.", no_args_is_help=True
)


@policy_app.command("list")
def policy_list(namespace: Namespace = "", as_json: Json = False) -> None:
    """Show the policies of the running stack."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        response = client.list_policies()
    rows = [_row(p) for p in response.policies]
    if as_json:
        print(json.dumps({"policies": rows, "backends": list(response.backends)}))
        return
    table = Table(*_COLUMNS, title=f"back-ends: {', '.join(response.backends)}")
    for row in rows:
        images = ", ".join(row["cameras"]) + (f" {row['image_size']} px" if row["image_size"] else "")
        seen = " x ".join(filter(None, (str(row["window"]) if row["window"] > 1 else "", images)))
        chunk = f"{row['horizon']} at {row['rate_hz']:g} Hz"
        active = "active" if row["active"] else ""
        cells = (row["policy_id"], row["backend"], active, row["version"], seen, chunk)
        table.add_row(*(str(cell) for cell in cells))
    print_tables(table)


_COLUMNS = (Column("policy", no_wrap=True), "back-end", "", "version", "sees", "actions")
"""Columns that fit in 80 characters; `--json` prints all values."""


def _row(info: Any) -> dict[str, Any]:
    """Return the fields of a PolicyInfo."""
    return {
        "policy_id": info.policy_id,
        "backend": info.backend,
        "active": info.active,
        "version": int(info.version),
        "cameras": list(info.cameras),
        "image_size": int(info.image_size),
        "window": int(info.window),
        "horizon": int(info.horizon),
        "rate_hz": float(info.rate_hz),
        "statistics_key": info.statistics_key,
        "path": info.path,
    }


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
    """Swap to a loaded policy at the next tick."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        client.activate_policy(policy_id)


@policy_app.command("unload")
def policy_unload(policy_id: str, namespace: Namespace = "") -> None:
    """Unload a policy."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        client.unload_policy(policy_id)


@policy_app.command("serve")
def policy_serve(
    backend: Annotated[str, typer.Argument(help="openvla, octo or compact.")],
    path: Annotated[str, typer.Argument(help="Checkpoint folder of the policy.")],
    task: Annotated[str, typer.Option(help="Task: name, name:object, or a .yaml file.")] = "insertion",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port on this machine.")] = 8000,
    explore: bool = False,
) -> None:
    """Serve one policy to REST clients of OpenVLA (POST /act) without a stack; Ctrl-C ends it."""
    from threading import Lock

    from rldg_bringup.pipeline import resolve_task
    from rldg_policy.serving.act_http import LOOPBACK, ActServer
    from rldg_policy.serving.act_request import ActService
    from rldg_policy.serving.inference import Worker
    from rldg_policy.serving.store import Served, load_policy

    # A client requests one action at a time, at its own rate.
    resolved = resolve_task(task)
    loaded = load_policy(backend, backend, str(Path(path).resolve()), explore, resolved, paced=False)
    if not loaded.spec.statistics_key:
        raise UserError(f"policy {backend!r}: not a generalist: it has no action statistics")
    worker = Worker(loaded.policy_id, loaded.policy, threaded=True)
    served = Served(loaded, worker)
    with ActServer(ActService(resolved, lambda: served, Lock()), port) as server:
        console.print(f"POST http://{LOOPBACK}:{port}/act, GET /health; statistics {loaded.spec.statistics_key}")
        try:
            server.serve_forever()
        finally:
            worker.close()
            worker.join(timeout_s=2.0)
