"""`rldg train`: specialists."""

from __future__ import annotations

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
    progress_maker,
    robot_of,
    sub_app,
)

app = sub_app()


@app.command()
def train(
    task: TaskArgument,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; default runs/<task>/<object>-<seed>. An existing run is resumed.")
    ] = None,
    demos: Annotated[Path | None, typer.Option(help="Bags of demonstrations; default: record them first.")] = None,
    demonstrations: Annotated[int, typer.Option(min=1, max=MANY, help="Successful demonstrations to record.")] = 20,
    earlier: Annotated[Path | None, typer.Option(help="Bags of earlier runs, to learn from as well.")] = None,
    watch: Annotated[Path | None, typer.Option(help="Learn from closed bags that appear here while it trains.")] = None,
    preset: Annotated[str, typer.Option(help="connector, tabletop, hil_serl, rlpd; default: the task's.")] = "",
    learner_config: Annotated[Path | None, typer.Option(help="YAML with overrides of the preset.")] = None,
    updates_per_step: Annotated[float, typer.Option(min=0, max=1000, help="Limit of updates per control step.")] = 0.0,
    max_steps: Annotated[int, typer.Option(min=1, max=MANY, help="Control steps at most.")] = 15_000,
    min_steps: Annotated[int, typer.Option(min=0, max=MANY, help="Control steps at least.")] = 3_000,
    success_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Stop at this rate over 20 training episodes.")
    ] = 0.95,
    evaluation_episodes: Annotated[
        int, typer.Option(min=0, max=MANY, help="Episodes of each of the two evaluations.")
    ] = 20,
    seed: Seed = 0,
    robot: RobotOption = "",
    real: Real = False,
    as_json: Json = False,
) -> None:
    """Train a specialist live, from demonstrations, its own steps and interventions; then evaluate and report."""
    from rldg_bringup.pipeline import TrainingLimits, resolve_task
    from rldg_bringup.training import TrainPlan, run_training

    for path in (demos, learner_config, earlier, watch):
        if path:
            existing(path)
    resolved = resolve_task(task)
    plan = TrainPlan(
        task=task,
        seed=seed,
        limits=TrainingLimits(success_rate, min_steps, max_steps),
        demos=demos,
        demonstrations=demonstrations,
        preset=preset,
        learner_config=learner_config,
        updates_per_step=updates_per_step,
        earlier=earlier,
        watch=watch,
        evaluation_episodes=evaluation_episodes,
        robot=robot_of(robot, real),
    )
    run_dir = out or Path("runs") / resolved.name / f"{resolved.default_object}-{seed}"
    with progress_maker() as make:
        report = run_training(plan, run_dir, make)
    keys = ("success", "evaluations", "env_steps", "updates", "wall_s", "intervention_ratio", "specialist")
    emit(report if as_json else {key: report[key] for key in keys}, as_json, "specialist")
