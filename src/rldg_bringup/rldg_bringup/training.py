"""`rldg train`: demonstrations, specialist, evaluation and report in one run folder that can be resumed.

`<run>/`: config.yaml (learner, resolved), demonstrations/bags, bags, checkpoints, specialist, evaluation/log,
report.json, plots/training.png. A resumed run repeats nothing: demonstrations and training episodes are counted by
their closed bags.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rldg_bringup.arguments import StackArguments
from rldg_bringup.bag_count import BagCount
from rldg_bringup.demo import versions
from rldg_bringup.outcome import Episodes
from rldg_bringup.pipeline import (
    Progress,
    TrainingLimits,
    arguments_for,
    recorded,
    resolve_task,
    stack_client,
    train,
    wait_active,
)
from rldg_bringup.plots import TrainingEpisode, plot_training
from rldg_bringup.robots import SIMULATED
from rldg_core.configuration import read_yaml
from rldg_core.errors import UserError
from rldg_core.files import read_bytes, sha256_hex, write_json, writing_aside
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Source
from rldg_data.bags.reading import episode_info, find_bags, read_episode

EVALUATIONS = 2
ATTEMPTS_PER_DEMONSTRATION = 5
"""Limit of attempts per successful demonstration."""


@dataclass(frozen=True)
class TrainPlan:
    """Plan of one training run.

    demos: folder of bags; None: record `demonstrations` successful ones; preset: of rldg_rl.config, "" for that of the
    task; learner_config: YAML file of overrides; updates_per_step: 0: as configured; earlier: folder of bags of
    earlier runs; watch: folder whose new bags are used during training.
    """

    task: str
    seed: int
    limits: TrainingLimits
    demos: Path | None = None
    demonstrations: int = 20
    preset: str = ""
    learner_config: Path | None = None
    updates_per_step: float = 0.0
    earlier: Path | None = None
    watch: Path | None = None
    evaluation_episodes: int = 20
    robot: str = SIMULATED


def run_training(plan: TrainPlan, run_dir: Path, progress: Callable[[str], Progress]) -> dict[str, Any]:
    """Run the unfinished parts, write report.json and return it. Bad input raises UserError before a node starts."""
    run_dir = run_dir.resolve()
    task = resolve_task(plan.task)
    if plan.demos is not None:
        check_demonstrations(plan.demos, task)
    config_file = write_learner_config(plan, task, run_dir)
    arguments = replace(
        arguments_for(plan.task, plan.seed, plan.robot),
        learner_config=str(config_file),
        earlier_bag_dir=str(plan.earlier.resolve()) if plan.earlier else "",
        watch_dir=str(plan.watch.resolve()) if plan.watch else "",
    )
    began_s = time.monotonic()
    demos = plan.demos or run_dir / "demonstrations" / "bags"
    if plan.demos is None:
        demonstrate(arguments, plan.demonstrations, demos, run_dir / "demonstrations" / "log", progress)
    demonstrations_s = time.monotonic() - began_s

    began_s = time.monotonic()
    resumed = len(recorded(run_dir / "bags").success)
    result = train(arguments, demos, run_dir, plan.limits, run_dir / "log", progress("control steps"))
    training_s = time.monotonic() - began_s

    evaluations = evaluate(arguments, result.specialist, plan.evaluation_episodes, run_dir / "evaluation", progress)
    episodes = training_episodes(run_dir / "bags")
    (run_dir / "plots").mkdir(exist_ok=True)
    plot_training(run_dir / "plots" / "training.png", episodes, task.period_s)
    steps = sum(e.steps for e in episodes)
    report = {
        "task": task.name,
        "object": task.default_object,
        "seed": plan.seed,
        "seeds": {"evaluation": [e["seed"] for e in evaluations]},
        "config_hash": task.config_hash(),
        "learner_config_sha256": sha256_hex(read_bytes(config_file)),
        "demonstrations": {"bags": len(find_bags(demos)), "wall_s": round(demonstrations_s, 1)},
        "wall_s": round(training_s, 1),
        "resumed_episodes": resumed,
        "env_steps": result.env_steps,
        "updates": result.updates,
        "intervention_ratio": round(sum(e.interventions for e in episodes) / max(1, steps), 4),
        "intervention_ratio_20": round(result.intervention_ratio_20, 4),
        "success": sum(e["success"] for e in evaluations),
        "evaluations": evaluations,
        "episodes": [asdict(e) for e in episodes],
        "specialist": str(result.specialist),
        "versions": versions(),
    }
    write_json(run_dir / "report.json", report)
    return report


def write_learner_config(plan: TrainPlan, task: Task, run_dir: Path) -> Path:
    """Write preset, file and options, resolved, to `<run>/config.yaml`, which learner and policy read.

    Raises UserError on an invalid preset or value, and when the folder holds a run with another configuration.
    """
    from rldg_rl import config as configuration

    overrides: dict[str, Any] = {}
    if plan.learner_config is not None:
        if plan.preset:
            configuration.resolve(plan.preset, where="option --preset")
        configuration.load(plan.learner_config, task)  # its errors name the file and the key
        overrides = read_yaml(plan.learner_config)
    if plan.preset:
        overrides["preset"] = plan.preset
    config = configuration.for_task(task, overrides, str(plan.learner_config or "option --preset"))
    config = configuration.with_learner(config, updates_per_step=plan.updates_per_step)
    # The preset hil_serl equals the defaults; every value is written.
    resolved = {"preset": "hil_serl", **config.model_dump(mode="json")}
    path = run_dir / "config.yaml"
    if path.is_file():
        if configuration.load(path, task) != config:
            raise UserError(f"{run_dir}: holds a run with another learner configuration; choose another --out")
        return path
    run_dir.mkdir(parents=True, exist_ok=True)
    with writing_aside(path) as aside:
        aside.write_text(yaml.safe_dump(resolved, sort_keys=False))
    return path


def check_demonstrations(demos: Path, task: Task) -> None:
    """Raise UserError when there are no demonstrations, or when a bag is of another task."""
    bags = find_bags(demos)
    if not bags:
        raise UserError(f"{demos}: no bags in it")
    for bag in bags:
        info = episode_info(bag)
        if info.task != task.name:
            raise UserError(f"{bag}: task {info.task!r}, expected {task.name!r}")


def demonstrate(
    arguments: StackArguments, wanted: int, bag_dir: Path, log_dir: Path, progress: Callable[[str], Progress]
) -> None:
    """Record until `wanted` demonstrations have succeeded, counting the closed bags of an interrupted call.

    The scripted operator demonstrates in simulation, a person on the robot. Raises UserError when
    ATTEMPTS_PER_DEMONSTRATION * `wanted` attempts are not enough.
    """
    before = recorded(bag_dir)
    if before.successes >= wanted:
        return
    report = progress("demonstrations")
    attempt = len(before.success)
    recording = replace(
        arguments,
        policy="hold",
        operator="demonstrate" if arguments.sim else "off",
        record=True,
        bag_dir=str(bag_dir),
        run_id=f"demonstration-{arguments.seed}-{attempt}",
    )
    successes = before.successes
    with stack_client(recording, log_dir) as (process, client):
        bags = BagCount(bag_dir, client, process)
        while successes < wanted:
            if attempt >= ATTEMPTS_PER_DEMONSTRATION * wanted:
                raise UserError(f"{bag_dir}: only {successes} of {attempt} demonstrations succeeded, {wanted} wanted")
            outcome = client.run_episodes(1, derive_seed(arguments.seed, "demonstrations", attempt))
            bags.wait(outcome)
            successes += outcome.successes
            attempt += 1
            report(successes, wanted)


def evaluate(
    arguments: StackArguments, specialist: Path, episodes: int, folder: Path, progress: Callable[[str], Progress]
) -> list[dict[str, Any]]:
    """Evaluate the deterministic specialist EVALUATIONS times in one stack, each time with other seeds."""
    if episodes == 0:
        return []
    task, results = resolve_task(arguments.task), []
    running = replace(arguments, policy="specialist", checkpoint=str(specialist), run_id=f"evaluation-{arguments.seed}")
    with stack_client(running, folder / "log") as (_, client):
        wait_active(client)
        for number in range(EVALUATIONS):
            seed = derive_seed(arguments.seed, "evaluation", number)
            report = progress(f"evaluation {number + 1}")
            outcome = client.run_episodes(episodes, seed, (), partial(_report_episode, report, episodes))
            results.append({"seed": seed, **summary(outcome, task)})
    return results


def _report_episode(report: Progress, total: int, feedback: Any) -> None:
    report(feedback.episode, total)


def training_episodes(bag_dir: Path) -> list[TrainingEpisode]:
    """Return the closed training episodes in order, with the number of steps that a person or the operator took."""
    episodes = []
    for bag in find_bags(bag_dir) if bag_dir.is_dir() else []:
        steps = [step for step in read_episode(bag) if not step.is_last]
        taken = sum(step.action.source in (Source.HUMAN, Source.SCRIPTED) for step in steps)
        episodes.append(TrainingEpisode(len(steps), bool(steps and steps[-1].success), taken))
    return episodes


def summary(outcome: Episodes, task: Task) -> dict[str, Any]:
    """Return successes, episodes and the mean cycle time [s] of successful episodes."""
    return {
        "success": outcome.successes,
        "episodes": len(outcome.success),
        "cycle_time_s": outcome.cycle_time_s(task.period_s),
    }
