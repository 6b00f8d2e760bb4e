"""`rldg train`: train a specialist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rldg_bringup.cli_common import (
    MANY,
    Json,
    Real,
    RobotOption,
    Seed,
    TaskArgument,
    emit,
    existing,
    expand_options,
    progress_maker,
    robot_of,
    sub_app,
)

app = sub_app()


@dataclass(frozen=True)
class TrainOptions:
    """Options of `rldg train`."""

    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/<task>/<object>-<seed>. An existing run is resumed.")
    ] = None
    demos: Annotated[Path | None, typer.Option(help="Bags of demonstrations; default: record them first.")] = None
    demonstrations: Annotated[int, typer.Option(min=1, max=MANY, help="Successful demonstrations to record.")] = 20
    earlier: Annotated[Path | None, typer.Option(help="Bags of earlier runs to learn from as well.")] = None
    watch: Annotated[Path | None, typer.Option(help="Folder whose new bags are learned from during training.")] = None
    preset: Annotated[str, typer.Option(help="connector, tabletop, hil_serl, rlpd; default: the task's.")] = ""
    learner_config: Annotated[Path | None, typer.Option(help="YAML file that overrides values of the preset.")] = None
    updates_per_step: Annotated[
        float, typer.Option(min=0, max=1000, help="Largest number of updates per control step; 0: as configured.")
    ] = 0.0
    max_steps: Annotated[int, typer.Option(min=1, max=MANY, help="Largest number of control steps.")] = 15_000
    min_steps: Annotated[int, typer.Option(min=0, max=MANY, help="Smallest number of control steps.")] = 3_000
    success_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Stop at this success rate of the last 20 training episodes.")
    ] = 0.95
    evaluation_episodes: Annotated[
        int, typer.Option(min=0, max=MANY, help="Episodes in each of the two evaluations.")
    ] = 20


@app.command()
@expand_options
def train(
    task: TaskArgument,
    options: TrainOptions,
    seed: Seed = 0,
    robot: RobotOption = "",
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Train a specialist on demonstrations, its own steps and interventions; then evaluate it and write a report."""
    from rldg_bringup.pipeline import TrainingLimits, resolve_task
    from rldg_bringup.training import TrainPlan, run_training

    for path in (options.demos, options.learner_config, options.earlier, options.watch):
        if path:
            existing(path)
    resolved = resolve_task(task)
    plan = TrainPlan(
        task=task,
        seed=seed,
        limits=TrainingLimits(options.success_rate, options.min_steps, options.max_steps),
        demos=options.demos,
        demonstrations=options.demonstrations,
        preset=options.preset,
        learner_config=options.learner_config,
        updates_per_step=options.updates_per_step,
        earlier=options.earlier,
        watch=options.watch,
        evaluation_episodes=options.evaluation_episodes,
        robot=robot_of(robot, real),
    )
    run_dir = options.out or Path("runs") / resolved.name / f"{resolved.default_object}-{seed}"
    with progress_maker() as make:
        report = run_training(plan, run_dir, make)
    keys = ("success", "evaluations", "env_steps", "updates", "wall_s", "intervention_ratio", "specialist")
    emit(report if as_json else {key: report[key] for key in keys}, as_json, "specialist")
