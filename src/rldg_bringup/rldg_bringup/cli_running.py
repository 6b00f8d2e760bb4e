"""`rldg run`, `rldg label`, `rldg hold`, `rldg release`: commands for a running stack."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from rldg_bringup.cli_common import (
    MANY,
    Json,
    Namespace,
    Objects,
    Seed,
    console,
    emit,
    names_in,
    progress_maker,
    sub_app,
)

app = sub_app()


@app.command()
def run(
    episodes: Annotated[int, typer.Option(min=1, max=MANY, help="Number of episodes.")] = 1,
    objects: Objects = "",
    seed: Seed = 0,
    namespace: Namespace = "",
    as_json: Json = False,
) -> None:
    """Run episodes with the active policy, which may be swapped meanwhile; Ctrl-C ends them."""
    from rldg_bringup.bag_count import RunningRecorder
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client, progress_maker() as make:
        recorder, report = RunningRecorder(client), make("episodes")
        outcome = client.run_episodes(
            episodes, seed, names_in(objects), lambda feedback: report(feedback.episode, episodes)
        )
        recorder.wait(outcome)
    steps = [n for n, good in zip(outcome.steps, outcome.success, strict=True) if good]
    mean = sum(steps) / len(steps) if steps else None
    emit(
        {"success": outcome.successes, "episodes": len(outcome.success), "steps_of_a_success": mean},
        as_json,
        "episodes",
    )


@app.command()
def label(
    outcome: Annotated[Literal["success", "failure"], typer.Argument(help="Label of the running episode.")],
    episode: Annotated[str, typer.Option(help="Episode id; default: the running one.")] = "",
    namespace: Namespace = "",
) -> None:
    """Label the running episode a success or a failure; it ends with the next observation."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        console.print(client.label_episode(outcome == "success", episode))


@app.command()
def hold(
    reason: Annotated[str, typer.Option(help="Reason shown in /diagnostics.")] = "hold requested",
    namespace: Namespace = "",
) -> None:
    """Latch the gate: the arm holds its measured pose until `rldg release`. This is not an emergency stop."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        console.print(client.hold(True, reason))


@app.command()
def release(namespace: Namespace = "") -> None:
    """Release the gate; refused while the cause of the latch persists."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        console.print(client.hold(False))
