"""How fast specialists learn: every task, several seeds, and the ablations. Without ROS, one core for each run.

    python benchmarks/specialists.py train --tasks insertion:vga pick_and_place --seeds 0 1 2
    python benchmarks/specialists.py ablations --tasks insertion:vga
    python benchmarks/specialists.py plot                       # docs/images/specialists.png

A run: 20 successful demonstrations by the scripted operator, then RLPD on the simulated cell with interventions by
the same operator, until two evaluations in a row (20 deterministic episodes, held-out seeds) succeed 20 of 20 by
ground truth, or until the time is up. wall_s counts everything after the demonstrations, evaluations included. Weights
reach the policy with the lag that lock-step gives them (docs/explanation/architecture.md, rule 7), so control steps are
comparable with the stack's. Writes out/bench/specialists/<run>.json after every evaluation, and `train` merges what
it measured into benchmarks/results/specialists.json.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rldg_core.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
TASKS = ROOT / "src/rldg_bringup/config/tasks"
PARTS = ROOT / "out/bench/specialists"
RESULTS = ROOT / "benchmarks/results"
EVALUATIONS = 20
LIMITS_S = {"insertion": 600.0, "pick_and_place": 1200.0, "fmb_insertion": 1800.0, "fmb_insertion_region": 1800.0}
"""Goals of the issue; a run that has not arrived by then ends."""
EVALUATE_EVERY = {"insertion": 500}
"""Control steps between evaluations; 1000 for other tasks."""

ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no_demonstrations": {"demonstrations": 0},
    "no_interventions": {"interventions": False},
    "image_only": {"overrides": {"features": {"proprioception": "none"}}},
    "state_only": {"overrides": {"features": {"image_encoder": "none"}}},
    "random_encoder": {"overrides": {"features": {"image_encoder": "random_conv"}}},
    "random_encoder_image_only": {
        "overrides": {"features": {"image_encoder": "random_conv", "proprioception": "none"}}
    },
    "utd_1": {"overrides": {"learner": {"updates_per_step": 1.0}}},
    "utd_4": {"overrides": {"learner": {"updates_per_step": 4.0}}},
    "hil_serl_defaults": {"preset": "hil_serl"},
}
"""`full` runs at UTD 2."""
ABLATION_STEPS, ABLATION_EVALUATE_EVERY = 4500, 1500
"""Control steps in which a full run on a connector arrives; wall time would say more about the machine's load."""


@dataclass(frozen=True)
class Run:
    """One training run. preset "": the task's own; classifier "": the reward is the ground truth; keep: folder that the
    specialist is written to in the end ("": it is not)."""

    reference: str
    seed: int
    name: str = "full"
    demonstrations: int = 20
    interventions: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    preset: str = ""
    time_limit_s: float = 0.0
    evaluate_every: int = 0
    max_steps: int = 60_000
    classifier: str = ""
    keep: str = ""

    @property
    def file(self) -> Path:
        """Where its progress goes."""
        return PARTS / f"{self.reference.replace(':', '_')}_{self.name}_{self.seed}.json"


def execute(run: Run) -> dict[str, Any]:
    """Train and evaluate; in a process of its own."""
    from rldg_core.task import find_task
    from rldg_rl.runtime import use_one_core

    use_one_core()
    from rldg_core.seeding import derive_seed
    from rldg_core.types import Step
    from rldg_rl import config as configuration
    from rldg_rl.learner import Learner, Weights
    from rldg_rl.specialist import SpecialistPolicy
    from rldg_rl.specialist_files import MadeOf, SavedSpecialist, write_specialist
    from rldg_rl.weights import pack
    from rldg_sim.env import CellEnv
    from rldg_sim.episodes import hold, run_episode
    from rldg_sim.operators.config import OperatorConfig
    from rldg_sim.scene import make_operator

    task = find_task(run.reference, [TASKS])
    config = configuration.for_task(task, {**({"preset": run.preset} if run.preset else {}), **run.overrides})
    env = CellEnv(task, images=config.features.image_encoder != "none")
    learner = Learner(config, task, run.seed)
    began = time.perf_counter()
    attempts = kept = 0
    teacher = make_operator(OperatorConfig(mode="demonstrate"), task)
    while kept < run.demonstrations:
        steps: list[Step] = []
        seed = derive_seed(run.seed, "demonstration", attempts)
        outcome = run_episode(env, seed, hold(task), teacher, steps.append, episode_id=f"demonstration/{attempts}")
        attempts += 1
        if outcome.success:  # as the learner does with bags
            learner.add_demonstration(steps)
            kept += 1
    demonstration_s = time.perf_counter() - began

    learner.warm_up()
    settings = PARTS / f"{run.file.stem}_config.json"
    write_json(settings, {"preset": "hil_serl", **config.model_dump(mode="json")})
    policy = SpecialistPolicy(settings, task, explore=True)
    examined = SpecialistPolicy(settings, task, explore=False)
    policy.warm_up()
    helper = make_operator(OperatorConfig(mode="intervene"), task) if run.interventions else None
    judge = _judge(run, task)
    began = time.perf_counter()
    cpu_began = time.process_time()
    learner.train_on_demonstrations()
    pending: list[Weights] = [learner.first_weights()]
    period = config.learner.period_steps
    count = perfect = false_positives = 0
    trained, curve = [], []
    learning_s = evaluating_s = 0.0
    result: dict[str, Any] = {}

    def take(step: Step) -> None:
        nonlocal learning_s
        start = time.process_time()
        weights = learner.consume(step)
        learning_s += time.process_time() - start
        if weights:
            pending.append(weights)

    def act(seen: Any) -> Any:
        nonlocal count
        due = count // period * period
        while pending and pending[0].valid_from_step <= due:
            weights = pending.pop(0)
            policy.update_weights(weights.data, weights.version)
        count += 1
        return policy.act(seen)[0]

    next_evaluation = run.evaluate_every
    while True:
        seed = derive_seed(run.seed, "online", len(trained))
        policy.reset("", seed)
        outcome = run_episode(env, seed, act, helper, take, judge, f"online/{len(trained)}", count)
        trained.append(outcome)
        false_positives += outcome.success and not outcome.true_success
        wall_s = time.perf_counter() - began
        ends = count >= run.max_steps or wall_s > run.time_limit_s
        if count < next_evaluation and not ends:
            continue
        next_evaluation += run.evaluate_every
        start = time.perf_counter()
        examined.update_weights(pack(learner.actor_tensors), 0)
        examination = []
        for k in range(EVALUATIONS):
            examined.reset("", k)
            seed = derive_seed(987, "evaluation", k)
            examination.append(run_episode(env, seed, lambda seen: examined.act(seen)[0]))
        evaluating_s += time.perf_counter() - start
        successes = sum(o.true_success for o in examination)
        recent = trained[-20:]
        curve.append(
            {
                "env_steps": count,
                "wall_s": round(time.perf_counter() - began, 1),
                "success": successes,
                "mean_steps": round(sum(o.steps for o in examination) / EVALUATIONS, 1),
                "train_success_20": round(sum(o.true_success for o in recent) / len(recent), 2),
                "intervention_ratio_20": round(
                    sum(o.interventions for o in recent) / max(1, sum(o.steps for o in recent)), 3
                ),
                **{name: round(value, 4) for name, value in learner.losses.items()},
            }
        )
        perfect = perfect + 1 if successes == EVALUATIONS else 0
        result = {
            "task": run.reference,
            "seed": run.seed,
            "variant": run.name,
            "wall_s": curve[-1]["wall_s"],
            "env_steps": count,
            "success": successes,
            "episodes": EVALUATIONS,
            "arrived": perfect == 2,
            "training_episodes": len(trained),
            "updates": learner.counters.updates,
            "evaluation_s": round(evaluating_s, 1),
            "demonstration_attempts": attempts,
            "demonstration_s": round(demonstration_s, 1),
            "interventions": sum(o.interventions for o in trained),
            "false_positives": false_positives,
            "learning_cpu_s": round(learning_s, 1),
            "cpu_s": round(time.process_time() - cpu_began, 1),
            "curve": curve,
        }
        write_json(run.file, result)
        print(f"{run.file.stem}: {json.dumps(curve[-1])}", flush=True)
        if perfect == 2 or ends:
            env.close()
            if run.keep:
                updates, actor = learner.counters.updates, learner.actor_tensors
                made_of = MadeOf.of(task, config.features)
                saved = SavedSpecialist(config, actor, task.action.dim, updates, task.default_object, made_of)
                write_specialist(Path(run.keep), saved)
            return result


def _judge(run: Run, task: Any) -> Any:
    """The run's reward classifier, or None: ground truth."""
    if not run.classifier:
        return None
    from rldg_rl.classifier.reward import RewardClassifier, SuccessJudge

    return SuccessJudge(RewardClassifier.load(Path(run.classifier), task), task)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "ablations", "plot"))
    parser.add_argument("--tasks", nargs="+", default=["insertion:usb_a", "insertion:ethernet", "insertion:vga"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(ABLATIONS), help="ablations to run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--time-limit-s", type=float, default=0.0)
    parser.add_argument("--preset", default="")
    parser.add_argument("--overrides", type=json.loads, default={}, help="JSON with the keys of RLConfig")
    parser.add_argument("--classifier", default="", help="folder of a reward classifier that replaces the ground truth")
    parser.add_argument("--dry", action="store_true", help="leave benchmarks/results as it is")
    args = parser.parse_args()
    if args.what == "plot":
        plot(ROOT / "docs/images/specialists.png")
        return
    ablating = args.what == "ablations"
    variants = ABLATIONS if ablating else {"classifier" if args.classifier else "full": {}}
    seeds = args.seeds[:1] if ablating else args.seeds
    runs = []
    for reference in args.tasks:
        name = reference.partition(":")[0]
        for variant in variants:
            if ablating and variant not in args.only:
                continue
            for seed in seeds:
                settings = {
                    "preset": args.preset,
                    "overrides": args.overrides,
                    "time_limit_s": args.time_limit_s or LIMITS_S[name],
                    "classifier": args.classifier,
                    "evaluate_every": EVALUATE_EVERY.get(name, 1000),
                    **({"max_steps": ABLATION_STEPS, "evaluate_every": ABLATION_EVALUATE_EVERY} if ablating else {}),
                    **variants[variant],
                }
                runs.append(Run(reference, seed, variant, **settings))
    results = []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(execute, run) for run in runs]):
            results.append(done.result())
            if not args.dry:
                _merge(RESULTS / ("ablations.json" if ablating else "specialists.json"), results[-1])
    print(json.dumps([{k: v for k, v in r.items() if k != "curve"} for r in results]))


def plot(path: Path) -> None:
    """Learning curves of every run in benchmarks/results/specialists.json, a panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = [r for r in read_json(RESULTS / "specialists.json") if r["variant"] == "full"]
    tasks = sorted({r["task"] for r in runs})
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(3.2 * len(tasks), 2.8), sharey=True, layout="constrained")
    for axis, task in zip(axes, tasks, strict=True):
        for run in (r for r in runs if r["task"] == task):
            steps = [0, *(p["env_steps"] for p in run["curve"])]
            axis.plot(steps, [0, *(p["success"] for p in run["curve"])], marker=".", label=f"seed {run['seed']}")
        axis.set(title=task, xlabel="control steps", ylim=(-0.5, EVALUATIONS + 0.5))
        axis.legend(fontsize="small")
    axes[0].set_ylabel(f"successes of {EVALUATIONS}")
    figure.savefig(path, dpi=110)


def _merge(path: Path, result: dict[str, Any]) -> None:
    """Put one run's result in place of an older one of the same task, seed and variant."""
    known = read_json(path) if path.is_file() else []
    key = ("task", "seed", "variant")
    others = [r for r in known if any(r[k] != result[k] for k in key)]
    write_json(path, sorted([*others, result], key=lambda r: [str(r[k]) for k in key]))


if __name__ == "__main__":
    main()
