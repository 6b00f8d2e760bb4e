"""Specialists for the distillation experiment: RLPD on the simulated cell, as benchmarks/specialists.py, but kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rldg_core.files import write_json

DEMONSTRATIONS = 20
MIN_STEPS = 3000
"""Control steps before the first evaluation: no connector was learnt earlier (benchmarks/results/specialists.json)."""
EVALUATE_EVERY = 500
MAX_STEPS = 12_000
EVALUATIONS = 20


def train_specialist(reference: str, seed: int, folder: Path, tasks: Path) -> dict[str, Any]:
    """Train until two evaluations in a row succeed 20 of 20, or MAX_STEPS; write `folder` and return how it went."""
    from rldg_rl.runtime import use_one_core

    use_one_core()
    from _rollout import Episode, Rollout, episodes, hold

    from rldg_core.seeding import derive_seed
    from rldg_core.task import find_task
    from rldg_core.types import Step
    from rldg_rl import config as configuration
    from rldg_rl.learner import Learner, Weights
    from rldg_rl.specialist import SpecialistPolicy
    from rldg_rl.specialist_files import SavedSpecialist, write_specialist
    from rldg_rl.weights import pack
    from rldg_sim.operator import OperatorConfig, make_operator

    task = find_task(reference, [tasks])
    config = configuration.resolve(configuration.preset_for(task), {})
    rollout = Rollout(task, task.default_object, render=config.features.image_encoder != "none")
    learner = Learner(config, task, seed)
    teacher = make_operator(OperatorConfig(mode="demonstrate"), task)
    began = time.perf_counter()
    attempts = kept = 0
    while kept < DEMONSTRATIONS:
        steps: list[Step] = []
        name = f"demonstration/{attempts}"
        start = derive_seed(seed, "demonstration", attempts)
        if rollout.run(name, start, 0, hold(task), teacher, steps.append).success:
            learner.add_demonstration(steps)
            kept += 1
        attempts += 1
    learner.warm_up()
    settings = folder.with_name(f"{folder.name}_config.json")
    write_json(settings, {"preset": "hil_serl", **config.model_dump(mode="json")})
    actor = SpecialistPolicy(settings, task, explore=True)
    examined = SpecialistPolicy(settings, task, explore=False)
    actor.warm_up()
    helper = make_operator(OperatorConfig(mode="intervene"), task)
    learner.train_on_demonstrations()
    pending: list[Weights] = [learner.first_weights()]
    count = perfect = trained = interventions = 0
    curve: list[dict[str, Any]] = []

    def take(step: Step) -> None:
        weights = learner.consume(step)
        if weights:
            pending.append(weights)

    def act(seen: Any) -> Any:
        nonlocal count
        due = count // config.learner.period_steps * config.learner.period_steps
        while pending and pending[0].valid_from_step <= due:
            weights = pending.pop(0)
            actor.update_weights(weights.data, weights.version)
        count += 1
        return actor.act(seen)[0]

    def evaluate() -> list[Episode]:
        examined.update_weights(pack(learner.actor_tensors), 0)
        outcomes = []
        for k in range(EVALUATIONS):
            examined.reset("", k)
            start = derive_seed(987, "evaluation", k)
            outcomes.append(rollout.run("", start, 0, lambda seen: examined.act(seen)[0]))
        return outcomes

    due = MIN_STEPS
    while perfect < 2 and count < MAX_STEPS:
        start = derive_seed(seed, "online", trained)
        actor.reset("", start)
        interventions += rollout.run(f"online/{trained}", start, count, act, helper, take).interventions
        trained += 1
        if count >= due:
            due += EVALUATE_EVERY
            verdict = episodes(evaluate())
            perfect = perfect + 1 if verdict["successes"] == EVALUATIONS else 0
            curve.append({"env_steps": count, "success": verdict["successes"], "mean_steps": verdict["mean_steps"]})
            print(f"{reference}: {curve[-1]}", flush=True)
    rollout.cell.close()
    write_specialist(
        folder,
        SavedSpecialist(
            config, learner.actor_tensors, task.action.dim, learner.counters.updates, task.name, task.default_object
        ),
    )
    return {
        "env_steps": count,
        "training_episodes": trained,
        "interventions": interventions,
        "demonstration_attempts": attempts,
        "wall_s": round(time.perf_counter() - began, 1),
        "arrived": perfect == 2,
        "curve": curve,
    }
