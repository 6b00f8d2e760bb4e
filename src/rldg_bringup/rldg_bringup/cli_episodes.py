"""`rldg record`, `rldg collect`, `rldg evaluate`: run and record episodes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
    expand_options,
    names_in,
    progress_maker,
    robot_of,
    sub_app,
)

app = sub_app()


@dataclass(frozen=True)
class CommonOptions:
    """Options of every command that runs episodes."""

    seed: Seed = 0
    robot: RobotOption = ""
    real: Real = False
    as_json: Json = False


@app.command()
@expand_options
def record(
    task: TaskArgument,
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    common: CommonOptions,
    episodes: Annotated[int, typer.Option(min=1, max=MANY, help="Number of episodes.")] = 20,
    topics: Annotated[
        str, typer.Option(help="Topics recorded beside the Steps: a,b or vendor for all topics of the drivers.")
    ] = "",
    preset: Annotated[str, typer.Option(help="Compression: none, zstd_fast, zstd_small.")] = "zstd_fast",
) -> None:
    """Record demonstrations: by a person on the robot, by the scripted operator in simulation."""
    from dataclasses import replace

    from rldg_bringup.pipeline import arguments_for, record_demonstrations

    arguments = replace(
        arguments_for(task, common.seed, robot_of(common.robot, common.real)),
        record_topics=topics,
        record_preset=preset,
    )
    with progress_maker() as make:
        outcome = record_demonstrations(arguments, episodes, out, out / "log", make("demonstrations"))
    emit(_summary(task, outcome), common.as_json, "demonstrations")


@app.command()
@expand_options
def collect(
    task: TaskArgument,
    checkpoint: Annotated[Path, typer.Option(help="Folder of the specialist.")],
    out: Annotated[Path, typer.Option(help="Folder for the bags.")],
    common: CommonOptions,
    episodes: Annotated[int, typer.Option(min=1, max=MANY, help="Number of episodes.")] = 60,
) -> None:
    """Record rollouts of a specialist; `rldg export --only-success` leaves out the failures."""
    _roll_out(task, "specialist", checkpoint, common, episodes=episodes, log_dir=out / "log", bag_dir=out)


@app.command()
@expand_options
def evaluate(
    task: TaskArgument,
    policy: Annotated[str, typer.Option(help="Back-end: specialist, compact, openvla, octo, scripted, hold.")],
    common: CommonOptions,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint folder.")] = None,
    episodes: Annotated[int, typer.Option(min=1, max=MANY, help="Number of episodes.")] = 20,
    objects: Objects = "",
    out: Annotated[Path | None, typer.Option(help="Folder for bags; default: do not record.")] = None,
    log_dir: Annotated[Path, typer.Option(help="Folder for the output of the nodes.")] = Path("log/rldg"),
) -> None:
    """Run a policy, count its successes and say what its episodes cost: force, time, path, jerk, and a score."""
    names = names_in(objects)
    with TemporaryDirectory(prefix="rldg_evaluate_") as unwanted:
        _roll_out(
            task,
            policy,
            checkpoint,
            common,
            episodes=episodes,
            log_dir=log_dir,
            objects=names,
            bag_dir=out or Path(unwanted),
        )


def _roll_out(
    task: str,
    policy: str,
    checkpoint: Path | None,
    common: CommonOptions,
    bag_dir: Path,
    objects: tuple[str, ...] = (),
    **more: Any,
) -> None:
    """Run episodes of one policy and print the outcome. more: arguments of `pipeline.roll_out`."""
    from rldg_bringup.pipeline import arguments_for, resolve_task, roll_out

    resolved = resolve_task(task)
    for name in objects:
        resolved.object_or_default(name)
    if checkpoint:
        existing(checkpoint)
    arguments = arguments_for(task, common.seed, robot_of(common.robot, common.real))
    with progress_maker() as make:
        outcome = roll_out(
            arguments,
            policy,
            checkpoint,
            seed=common.seed,
            objects=objects,
            bag_dir=bag_dir,
            progress=make(policy),
            **more,
        )
    emit(_summary(task, outcome) | _costs(bag_dir, outcome), common.as_json, policy)


def _summary(task: str, outcome: Any) -> dict[str, Any]:
    from rldg_bringup.pipeline import resolve_task

    period_s = resolve_task(task).period_s
    return {
        "success": outcome.successes,
        "episodes": len(outcome.success),
        "cycle_time_s": outcome.cycle_time_s(period_s),
    }


def _costs(bag_dir: Path, outcome: Any) -> dict[str, float]:
    """Return the mean costs of these episodes by their bags."""
    from rldg_data.bags.reading import episode_info, find_bags, read_episode
    from rldg_data.episode_cost import episode_cost, mean_costs

    asked = set(outcome.episode_ids)
    bags = [bag for bag in find_bags(bag_dir) if episode_info(bag).episode_id in asked]
    return mean_costs(episode_cost(read_episode(bag)) for bag in bags)
