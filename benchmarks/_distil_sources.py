"""Record rollouts of a specialist and demonstrations of the scripted operator as bags; export them as RLDS."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

SOURCES = ("rldg", "scripted")
VARIANTS = (*SOURCES, "rldg_sampled")
"""rldg_sampled: actions are sampled from the specialist, as during its training."""


def record(source: str, reference: str, specialist: Path, bag_dir: Path, successes: int, tasks: Path) -> None:
    """Record until `bag_dir` holds `successes` successful episodes; failed episodes are kept as bags, too.

    Episode k always has the same initial state, so that a killed run can be resumed. The specialist acts with the mode
    of its distribution, as in `rldg run`, except for `rldg_sampled`.
    """
    from rldg_core.seeding import derive_seed
    from rldg_core.task import find_task
    from rldg_core.types import Step
    from rldg_data.bags.recording import write_episode
    from rldg_rl.runtime import use_one_core
    from rldg_rl.specialist import SpecialistPolicy
    from rldg_sim.env import CellEnv
    from rldg_sim.episodes import hold, run_episode
    from rldg_sim.operators.config import OperatorConfig
    from rldg_sim.scene import make_operator

    use_one_core()
    task = find_task(reference, [tasks])
    outcomes = recorded(bag_dir)
    kept = sum(success for success, _ in outcomes)
    if kept >= successes:
        return
    env = CellEnv(task)
    operator = policy = None
    if source == "scripted":
        operator = make_operator(OperatorConfig(mode="demonstrate"), task)
    else:
        policy = SpecialistPolicy(specialist, task, explore=source == "rldg_sampled")
        policy.warm_up()
    still = hold(task)
    for k in range(len(outcomes), 4 * successes):
        steps: list[Step] = []
        seed = derive_seed(0, "distillation", source, reference, k)
        if policy:
            policy.reset(task.instruction(task.default_object), seed)
        act = (lambda seen: policy.act(seen)[0]) if policy else still
        name = f"{source}/{task.default_object}/{k}"
        kept += run_episode(env, seed, act, operator, steps.append, episode_id=name).success
        write_episode(bag_dir, steps, task)
        if kept >= successes:
            break
    env.close()


def recorded(bag_dir: Path) -> list[tuple[bool, int]]:
    """Return (success, steps) of every bag."""
    from rldg_data.bags.reading import episode_info, find_bags

    infos = [episode_info(bag) for bag in find_bags(bag_dir)] if bag_dir.is_dir() else []
    return [(info.success, info.steps) for info in infos]


def quality(outcomes: Iterable[tuple[bool, int]], period_s: float) -> dict[str, Any]:
    """Return the success rate of a source on a connector and the mean length of successful episodes."""
    outcomes = list(outcomes)
    steps = [steps for success, steps in outcomes if success]
    mean_steps = sum(steps) / len(steps) if steps else None
    return {
        "attempts": len(outcomes),
        "successes": len(steps),
        "success_rate": round(len(steps) / len(outcomes), 3) if outcomes else None,
        "mean_steps": round(mean_steps, 1) if mean_steps else None,
        "cycle_time_s": round(mean_steps * period_s, 3) if mean_steps else None,
    }


def make_dataset(name: str, bag_dirs: Iterable[Path], per_object: int, root: Path) -> Path:
    """Export `per_object` successful episodes of every connector as RLDS; a smaller one is a subset of a larger one."""
    from rldg_data.recipe.planning import make_plan
    from rldg_data.recipe.recipe import Recipe
    from rldg_data.rlds.export import MARKER_FILE, export_plan

    recipe = Recipe.model_validate(
        {
            "name": name,
            "sources": [{"bags": [str(folder) for folder in bag_dirs]}],
            "filter": {"success": True},
            "max_episodes_per_object": per_object,
            "balance": "object",
        }
    )
    path = root / name / recipe.version
    if not (path / MARKER_FILE).is_file():
        export_plan(make_plan(recipe, root), root)
    return path
