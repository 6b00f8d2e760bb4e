"""`rldg run`, `rldg label`, `rldg hold`, `rldg release`: what a person tells a running stack."""

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
    episodes: Annotated[int, typer.Option(min=1, max=MANY)] = 1,
    objects: Objects = "",
    seed: Seed = 0,
    namespace: Namespace = "",
    as_json: Json = False,
) -> None:
    """Run episodes with the policy that is active; which can be swapped meanwhile; Ctrl-C ends them."""
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
    verdict: Annotated[Literal["success", "failure"], typer.Argument(help="How the running episode ends.")],
    episode: Annotated[str, typer.Option(help="Episode id; default: the running one.")] = "",
    namespace: Namespace = "",
) -> None:
    """Mark the running episode as a success or a failure; it ends with the next observation."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        console.print(client.label_episode(verdict == "success", episode))


@app.command()
def hold(
    reason: Annotated[str, typer.Option(help="Shown in /diagnostics.")] = "hold requested",
    namespace: Namespace = "",
) -> None:
    """Make the gate hold the arm where it is, until `rldg release`. No emergency stop."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        console.print(client.hold(True, reason))


@app.command()
def release(namespace: Namespace = "") -> None:
    """Let the gate act again; refused while the cause of its hold persists."""
    from rldg_bringup.client import RUNNING_TIMEOUT_S, connected

    with connected(namespace, ready_timeout_s=RUNNING_TIMEOUT_S) as client:
        console.print(client.hold(False))
