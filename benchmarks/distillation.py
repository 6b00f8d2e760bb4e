"""Distillation experiment: the compact generalist trained on rollouts of specialists and on scripted demonstrations.

    python benchmarks/distillation.py                              # everything; continues where it was stopped
    python benchmarks/distillation.py --stages specialists bags    # a part of it
    python benchmarks/distillation.py --stages matrix --heads bins --seeds 0 --episodes 45
    python benchmarks/distillation.py --data rldg_sampled --heads bins --seeds 0 --episodes 45   # a variant of the data
    python benchmarks/distillation.py --ablation not_mirrored --heads bins --seeds 0 --episodes 45
    python benchmarks/distillation.py --stages results             # table and plot of what there is

1. specialists: one for each seen connector (RLPD on the simulated cell, until 2 x 20 of 20 evaluations succeed).
2. bags: 90 successful episodes per connector by the specialist, and as many by the scripted operator.
3. datasets: RLDS by the data engine, 15, 45 and 90 episodes per connector; a smaller one is part of a larger one.
4. matrix: fine-tune the compact generalist with both heads and evaluate it, greedy and sampled, on 20 episodes of
   every seen and unseen connector, the same ones for every model.
5. results: benchmarks/results/distillation.json (written after every model), distillation_sources.json (success and
   cycle time of specialists and operator), docs/images/distillation.png, and the summary as a table.

Everything is kept under out/bench/distillation; every random thing has a seed. About 2.5 h on one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from _distil_evaluate import SEEN, TASK, TASKS, evaluate
from _distil_plot import plot
from _distil_sources import SOURCES, VARIANTS, make_dataset, quality, record, recorded
from _distil_table import Row, ordered, summary
from _specialist_settings import Run as SpecialistRun
from specialists import execute as train_specialist

from rldg_core.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "out/bench/distillation"
RESULTS = ROOT / "benchmarks/results"
STAGES = ("specialists", "bags", "datasets", "matrix", "results")
HEADS = ("bins", "diffusion")
SIZES = (15, 45, 90)
MAIN = 45
"""Episodes per connector for which all seeds are trained."""
TRAINING: dict[str, Any] = {"mirror": 0.5, "steps": 1000}
"""Differences from the defaults of `rldg finetune compact`: the scene is nearly mirror-symmetric, and 20 trainings of
3,000 steps would take two hours more."""
ABLATIONS: dict[str, dict[str, Any]] = {"three_times_the_steps": {"steps": 3000}, "not_mirrored": {"mirror": 0.0}}
"""Differences from TRAINING. Results: benchmarks/results/distillation_ablations.json."""


SPECIALIST = SpecialistRun(TASK, 0, "distillation", time_limit_s=3600.0, evaluate_every=500, max_steps=12_000)


@dataclass(frozen=True)
class Run:
    """One training of a generalist. episodes: per connector; ablation: key of ABLATIONS."""

    data: str
    head: str
    episodes: int
    seed: int
    ablation: str = ""

    @property
    def folder(self) -> Path:
        """Folder with checkpoint/, training.json and scores.json."""
        return runs_folder(self.ablation) / f"{self.data}_{self.episodes}_{self.head}_{self.seed}"


def runs_folder(ablation: str = "") -> Path:
    """Return the folder of the runs of the matrix, or of one ablation."""
    return PARTS / "ablations" / ablation if ablation else PARTS / "runs"


def specialists() -> None:
    """Stage 1: train the specialists."""
    for connector in SEEN:
        folder = PARTS / "specialists" / connector
        story = folder.with_suffix(".json")
        if not story.is_file():
            run = replace(SPECIALIST, reference=f"{TASK}:{connector}", keep=str(folder))
            write_json(story, train_specialist(run))


def bags(sources: Sequence[str]) -> None:
    """Stage 2: record the bags."""
    for source, connector in product(sources, SEEN):
        specialist = PARTS / "specialists" / connector
        record(source, f"{TASK}:{connector}", specialist, bag_dir(source, connector), max(SIZES), TASKS)


def bag_dir(source: str, connector: str) -> Path:
    """Return the folder of the episodes of one source and connector."""
    return PARTS / "bags" / source / connector


def dataset(source: str, episodes: int) -> Path:
    """Stage 3: export one dataset."""
    folders = [bag_dir(source, connector) for connector in SEEN]
    return make_dataset(f"connectors_{source}_{episodes}", folders, episodes, PARTS / "datasets")


def planned(sources: Sequence[str], heads: Sequence[str], seeds: Sequence[int], sizes: Sequence[int]) -> list[Run]:
    """Return the runs, the most important first: every seed of MAIN, then the other sizes with the first seed."""
    main = [Run(data, head, MAIN, seed) for seed, head, data in product(seeds, heads, sources) if MAIN in sizes]
    others = [n for n in sizes if n != MAIN]
    return main + [Run(data, head, n, seeds[0]) for head, n, data in product(heads, others, sources)]


def train_and_score(run: Run) -> None:
    """Stage 4: train and evaluate one run, unless its results exist."""
    from rldg_policy.compact.config import TrainConfig
    from rldg_policy.compact.train import finetune

    path = dataset(run.data, run.episodes)
    changed = ABLATIONS[run.ablation] if run.ablation else {}
    config = TrainConfig.model_validate({**TRAINING, **changed, "model": {"head": run.head, "decode": "mean"}})
    settings = {"config": config.model_dump(mode="json"), "dataset": str(path.relative_to(ROOT)), "seed": run.seed}
    story, checkpoint, scores = run.folder / "training.json", run.folder / "checkpoint", run.folder / "scores.json"
    if not story.is_file() or any(read_json(story)[k] != value for k, value in settings.items()):
        shutil.rmtree(run.folder, ignore_errors=True)
        began, cpu_began = time.perf_counter(), time.process_time()
        result = finetune(path, checkpoint, config, seed=run.seed)
        times = {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_began}
        write_json(story, {**settings, **times, "result": asdict(result)})
    if not scores.is_file():
        write_json(scores, [asdict(score) for score in evaluate(checkpoint)])


def in_own_process(run: Run) -> Run:
    """Run in a new process, so that runs cannot influence each other."""
    subprocess.run([sys.executable, __file__, "--one", json.dumps(asdict(run))], check=True)
    return run


def rows(ablation: str = "") -> list[Row]:
    """Return all existing scores."""
    found = []
    for path in runs_folder(ablation).glob("*/scores.json"):
        data, episodes, head, seed = path.parent.name.rsplit("_", 3)
        run = {"data": data, "head": head, "episodes": int(episodes), "seed": int(seed)}
        found += [{**run, **{k: v for k, v in score.items() if k != "steps"}} for score in read_json(path)]
    return ordered(found)


def qualities() -> list[dict[str, Any]]:
    """Return success and cycle time of the specialists and of the scripted operator."""
    from rldg_core.task import find_task

    period_s = find_task(TASK, [TASKS]).period_ns / 1e9
    return [
        {"data": source, "connector": connector, **quality(recorded(bag_dir(source, connector)), period_s)}
        for source, connector in product(VARIANTS, SEEN)
        if bag_dir(source, connector).is_dir()
    ]


def write_results() -> None:
    """Stage 5: write table and plot."""
    table = rows()
    write_json(RESULTS / "distillation.json", table)
    ablations = [{"ablation": name, **row} for name in ABLATIONS for row in rows(name)]
    if ablations:
        write_json(RESULTS / "distillation_ablations.json", ablations)
    write_json(RESULTS / "distillation_sources.json", qualities())
    if table:
        plot(table, ROOT / "docs/images/distillation.png")
        print("\n".join(summary(table)), flush=True)
    for name in sorted({row["ablation"] for row in ablations}):
        print(f"\n{name}\n" + "\n".join(summary(rows(name))), flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--data", nargs="+", choices=VARIANTS, default=list(SOURCES))
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training")
    parser.add_argument("--episodes", nargs="+", type=int, choices=SIZES, default=list(SIZES), help="per connector")
    parser.add_argument("--jobs", type=int, default=1, help="runs of the matrix at a time, a core each")
    parser.add_argument("--ablation", choices=("", *ABLATIONS), default="", help="train otherwise")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        train_and_score(Run(**args.one))
        return
    if "specialists" in args.stages:
        specialists()
    if "bags" in args.stages:
        bags(args.data)
    if "datasets" in args.stages:
        for source, episodes in product(args.data, args.episodes):
            print(dataset(source, episodes), flush=True)
    if "matrix" in args.stages:
        runs = planned(args.data, args.heads, args.seeds, args.episodes)
        runs = [replace(run, ablation=args.ablation) for run in runs]
        with ThreadPoolExecutor(args.jobs) as pool:
            for done in as_completed([pool.submit(in_own_process, run) for run in runs]):
                print(done.result(), flush=True)
                write_json(RESULTS / "distillation.json", rows())
    if "results" in args.stages:
        write_results()


if __name__ == "__main__":
    main()
