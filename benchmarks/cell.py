"""What specialists of the cell with errors can do beyond what they were trained on: other connectors, other days.

    python benchmarks/cell.py                      # trains the specialists that out/bench/specialists lacks

Each specialist has 40 episodes with every connector, on the day on which it was trained, and 40 with its own
connector on four other days: there fixture, camera mount, light and errors of the arm are others. `no_image` are
specialists from pose, twist and wrench alone. Writes benchmarks/results/cell.json.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from _report import report
from specialists import ABLATIONS, RESULTS, TASKS, run_of, train

from rldg_core.files import write_json

SEEN = ("usb_a", "ethernet", "vga")
UNSEEN = ("usb_c", "hdmi", "displayport", "xlr")
EPISODES = 40
OTHER_DAYS = (1001, 1002, 1003, 1004)
FIRST_SEED = 5000


def trials(folder: Path, connector: str, day: int, episodes: int) -> tuple[int, list[float]]:
    """Return the successes of a specialist with a connector on a day, and the peak force [N] of each episode."""
    from rldg_core.task import find_task
    from rldg_core.types import Step
    from rldg_data.episode_cost import episode_cost
    from rldg_rl.specialist import SpecialistPolicy
    from rldg_sim.env import CellEnv
    from rldg_sim.episodes import run_episode

    task = find_task("insertion", [TASKS])
    policy = SpecialistPolicy(folder, task, explore=False)
    env = CellEnv(task, connector, day=day)
    successes, peaks_n = 0, []
    for seed in range(FIRST_SEED, FIRST_SEED + episodes):
        steps: list[Step] = []
        policy.reset("", seed)
        outcome = run_episode(env, seed, lambda observation: policy.act(observation)[0], on_step=steps.append)
        successes += outcome.true_success
        peaks_n.append(episode_cost(steps).peak_force_n)
    env.close()
    return successes, peaks_n


def row(cell: tuple[str, int, str, str], folder: Path) -> dict[str, Any]:
    """Return one row of the result. cell: specialist's connector, seed (its day), connector, "own" or "other" days."""
    import numpy as np

    from rldg_rl.runtime import use_one_core

    use_one_core()
    specialist, seed, connector, when = cell
    days = (seed,) if when == "own" else OTHER_DAYS
    parts = [trials(folder, connector, day, EPISODES // len(days)) for day in days]
    return {
        "specialist": specialist,
        "object": connector,
        "seen": connector == specialist,
        "seed": seed,
        "day": when,
        "success": sum(successes for successes, _ in parts),
        "trials": EPISODES,
        "peak_force_n": round(float(np.median([peak for _, peaks in parts for peak in peaks])), 1),
        "by_day": [successes for successes, _ in parts],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the specialists")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    args = parser.parse_args()
    references = {connector: f"insertion:{connector}" for connector in SEEN}
    full = {(c, s): run_of(references[c], s, "full", False) for c in SEEN for s in args.seeds}
    blind = {c: run_of(references[c], args.seeds[0], "state_only", True, **ABLATIONS["state_only"]) for c in SEEN}
    train([run for run in full.values() if not run.folder.is_dir()], args.jobs, "specialists")
    train([run for run in blind.values() if not run.folder.is_dir()], args.jobs, None)
    cells = [(c, s, other, "own") for c, s in full for other in (*SEEN, *UNSEEN)]
    cells += [(c, s, c, "other") for c, s in full]
    blinded = [(c, args.seeds[0], c, when) for c in SEEN for when in ("own", "other")]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(row, cells, [full[c, s].folder for c, s, _, _ in cells]))
        without = list(pool.map(row, blinded, [blind[c].folder for c, _, _, _ in blinded]))
    zero_shot = [one for one in rows if one["day"] == "own"]
    result = {
        "zero_shot": zero_shot,
        "other_days": [one for one in rows if one["day"] == "other"],
        "no_image": without,
    }
    write_json(RESULTS / "cell.json", result)
    rate = partial(_rate, zero_shot)
    values: dict[str, object] = {c: {"own": rate(c, (c,)), "unseen": rate(c, UNSEEN)} for c in SEEN}
    report("cell", values)


def _rate(rows: list[dict[str, Any]], specialist: str, objects: tuple[str, ...]) -> float:
    chosen = [one for one in rows if one["specialist"] == specialist and one["object"] in objects]
    return round(sum(one["success"] for one in chosen) / sum(one["trials"] for one in chosen), 3)


if __name__ == "__main__":
    main()
