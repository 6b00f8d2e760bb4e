"""Sample efficiency of specialists: every task, several seeds, and the ablations. Without ROS, one core per run.

    python benchmarks/specialists.py train --tasks insertion:vga pick_and_place --seeds 0 1 2
    python benchmarks/specialists.py ablations --tasks insertion:vga
    python benchmarks/specialists.py plot                       # docs/images/specialists.png

A run of seed n, on day n of the cell: 20 successful demonstrations by the scripted operator, then RLPD on the simulated
cell with interventions by the same operator, until two evaluations in a row (20 deterministic episodes, held-out
seeds) succeed 20 of 20 by ground truth, or until the time limit. wall_s counts everything after the demonstrations,
evaluations included. Weights reach the policy with the delay of lock-step (docs/explanation/architecture.md, rule 7),
so that control steps are comparable with those of the stack. Writes
out/bench/specialists/<run>.json after every evaluation and the specialist into the folder <run> at the end; `train`
merges its results into benchmarks/results/specialists.json.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _specialist_settings import EVALUATIONS, ROOT, Run

from rldg_core.files import read_json, write_json

TASKS = ROOT / "src/rldg_bringup/config/tasks"
RESULTS = ROOT / "benchmarks/results"
LIMITS_S = {"insertion": 2400.0, "pick_and_place": 1200.0, "fmb_insertion": 1800.0, "fmb_insertion_region": 1800.0}
"""Time limits of a run."""
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
"""Control steps in which a full run on a connector arrives. Wall time would depend on the load of the machine."""


def execute(run: Run) -> dict[str, Any]:
    """Train and evaluate. Call it in a process of its own: it pins the process to one core."""
    from _specialist_run import Training

    training = Training(run, TASKS)
    training.demonstrate()
    return training.train()


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
    changes = {"preset": args.preset, "overrides": args.overrides, "classifier": args.classifier}
    runs = [
        run_of(reference, seed, variant, ablating, args.time_limit_s, **{**changes, **settings})
        for reference in args.tasks
        for variant, settings in variants.items()
        if not ablating or variant in args.only
        for seed in (args.seeds[:1] if ablating else args.seeds)
    ]
    results = train(runs, args.jobs, None if args.dry else ("ablations" if ablating else "specialists"))
    print(json.dumps([{k: v for k, v in r.items() if k != "curve"} for r in results]))


def run_of(reference: str, seed: int, variant: str, ablating: bool, time_limit_s: float = 0.0, **changes: Any) -> Run:
    """Return a run with the time limit and the evaluations of its task; an ablation ends after ABLATION_STEPS."""
    name = reference.partition(":")[0]
    settings: dict[str, Any] = {
        "time_limit_s": time_limit_s or LIMITS_S[name],
        "evaluate_every": EVALUATE_EVERY.get(name, 1000),
    }
    if ablating:
        settings |= {"max_steps": ABLATION_STEPS, "evaluate_every": ABLATION_EVALUATE_EVERY}
    return Run(reference, seed, variant, **{**settings, **changes})


def train(runs: list[Run], jobs: int, table: str | None) -> list[dict[str, Any]]:
    """Execute runs, `jobs` at a time, and add each result to benchmarks/results/<table>.json."""
    results = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for done in as_completed([pool.submit(execute, run) for run in runs]):
            results.append(done.result())
            if table:
                _merge(RESULTS / f"{table}.json", results[-1])
    return results


def plot(path: Path) -> None:
    """Plot the learning curves of all runs in benchmarks/results/specialists.json, one panel per task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    runs = [r for r in read_json(RESULTS / "specialists.json") if r["variant"] == "full"]
    tasks = sorted({r["task"] for r in runs})
    figure, axes = pyplot.subplots(1, len(tasks), figsize=(3.2 * len(tasks), 2.8), sharey=True, layout="constrained")
    for axis, task in zip(axes, tasks, strict=True):
        for run in (r for r in runs if r["task"] == task):
            steps = [0, *(p["env_steps"] for p in run["curve"])]
            label = f"{run['realism']} {run['seed']}"
            axis.plot(steps, [0, *(p["success"] for p in run["curve"])], marker=".", label=label)
        axis.set(title=task, xlabel="control steps", ylim=(-0.5, EVALUATIONS + 0.5))
        axis.legend(fontsize="small")
    axes[0].set_ylabel(f"successes of {EVALUATIONS}")
    figure.savefig(path, dpi=110)


def _merge(path: Path, result: dict[str, Any]) -> None:
    """Add a result to the file, replacing an older one of the same task, realism, seed and variant."""
    known = read_json(path) if path.is_file() else []
    key = ("task", "realism", "seed", "variant")
    others = [r for r in known if any(r[k] != result[k] for k in key)]
    write_json(path, sorted([*others, result], key=lambda r: [str(r[k]) for k in key]))


if __name__ == "__main__":
    main()
