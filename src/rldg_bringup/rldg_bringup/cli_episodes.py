"""`rldg record`, `rldg collect`, `rldg evaluate`: episodes of a person, of a specialist, of any policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rldg_bringup.cli_common import (
    MANY,
    Json,
    Objects,
    Real,
    RobotOption,
    Seed,
    TaskArgument,
    emit,
    existing,
    names_in,
    progress_maker,
    robot_of,
    sub_app,
)

app = sub_app()


@app.command()
def record(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    episodes: Annotated[int, typer.Option(min=1, max=MANY)] = 20,
    topics: Annotated[str, typer.Option(help="Record these raw, too: a,b or vendor for all of the drivers'.")] = "",
    preset: Annotated[str, typer.Option(help="Compression: none, zstd_fast, zstd_small.")] = "zstd_fast",
    seed: Seed = 0,
    robot: RobotOption = "",
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Record demonstrations: by the SpaceMouse on the robot, by the scripted operator in simulation."""
    from dataclasses import replace

    from rldg_bringup.pipeline import arguments_for, record_demonstrations

    arguments = replace(arguments_for(task, seed, robot_of(robot, real)), record_topics=topics, record_preset=preset)
    with progress_maker() as make:
        outcome = record_demonstrations(arguments, episodes, out, out / "log", make("demonstrations"))
    emit(_outcome(task, outcome), as_json, "demonstrations")


@app.command()
def collect(
    task: TaskArgument,
    checkpoint: Annotated[Path, typer.Option(help="Specialist folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    episodes: Annotated[int, typer.Option(min=1, max=MANY)] = 60,
    seed: Seed = 0,
    robot: RobotOption = "",
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Roll a specialist out and record every episode; `export --only-success` drops the failures."""
    _roll(task, "specialist", checkpoint, episodes, seed, out / "log", (), out, robot_of(robot, real), as_json)


@app.command()
def evaluate(
    task: TaskArgument,
    policy: Annotated[str, typer.Option(help="Back-end: specialist, compact, openvla, octo, scripted, hold.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder.")] = None,
    episodes: Annotated[int, typer.Option(min=1, max=MANY)] = 20,
    objects: Objects = "",
    out: Annotated[Path | None, typer.Option(help="Record bags here.")] = None,
    log_dir: Annotated[Path, typer.Option(help="Where the nodes' output goes.")] = Path("log/rldg"),
    seed: Seed = 0,
    robot: RobotOption = "",
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Run a policy and count its successes."""
    _roll(task, policy, checkpoint, episodes, seed, log_dir, names_in(objects), out, robot_of(robot, real), as_json)


def _roll(
    task: str,
    policy: str,
    checkpoint: Path | None,
    episodes: int,
    seed: int,
    log_dir: Path,
    objects: tuple[str, ...],
    out: Path | None,
    robot: str,
    as_json: bool,
) -> None:
    from rldg_bringup.pipeline import arguments_for, resolve_task, roll_out

    resolved = resolve_task(task)
    for name in objects:
        resolved.object_or_default(name)
    if checkpoint:
        existing(checkpoint)
    with progress_maker() as make:
        outcome = roll_out(
            arguments_for(task, seed, robot),
            policy,
            checkpoint,
            episodes,
            seed,
            log_dir,
            objects=objects,
            bag_dir=out,
            progress=make(policy),
        )
    emit(_outcome(task, outcome), as_json, policy)


def _outcome(task: str, outcome: Any) -> dict[str, Any]:
    from rldg_bringup.pipeline import resolve_task

    period_s = resolve_task(task).period_s
    return {
        "success": outcome.successes,
        "episodes": len(outcome.success),
        "cycle_time_s": outcome.cycle_time_s(period_s),
    }
