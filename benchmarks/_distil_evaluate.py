"""Evaluate a checkpoint on each connector: the same episodes every time, on the simulated cell, without ROS.

    python benchmarks/_distil_evaluate.py CHECKPOINT [--decode greedy sampled] [--connectors usb_a xlr] [--episodes 20]

Prints one line of JSON per connector and decoding, and one for seen and for unseen connectors together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TASKS = Path(__file__).resolve().parents[1] / "src/rldg_bringup/config/tasks"
TASK = "insertion"
SEEN = ("usb_a", "ethernet", "vga")
UNSEEN = ("usb_c", "hdmi", "displayport", "xlr")
DECODINGS = ("greedy", "sampled")
"""Policies with explore False and True; greedy needs a checkpoint of `rldg finetune compact --decode mean`."""
EPISODES = 20
SEED = 2026


@dataclass(frozen=True)
class Score:
    """Result of one connector and decoding.

    success: successful episodes by ground truth; trials: episodes; steps: of each successful episode; cycle_time_s:
    mean duration of successful episodes, null without one.
    """

    connector: str
    decode: str
    seen: bool
    success: int
    trials: int
    cycle_time_s: float | None
    steps: tuple[int, ...]


def evaluate(
    checkpoint: Path,
    decodings: Sequence[str] = DECODINGS,
    connectors: Sequence[str] = SEEN + UNSEEN,
    trials: int = EPISODES,
    backend: str = "compact",
) -> Iterator[Score]:
    """Yield the score of each connector and decoding.

    Episode k of a connector has the same initial state for every checkpoint and decoding. The policy infers at every
    tick, as the server does.
    """
    from importlib.metadata import entry_points

    import torch

    from rldg_core.policy import ENTRY_POINT_GROUP
    from rldg_core.seeding import derive_seed
    from rldg_core.task import find_task
    from rldg_sim.env import CellEnv
    from rldg_sim.episodes import run_episode

    torch.set_num_threads(1)
    factory = next(iter(entry_points(group=ENTRY_POINT_GROUP, name=backend))).load()
    for connector in connectors:
        task = find_task(f"{TASK}:{connector}", [TASKS])
        env = CellEnv(task, connector)
        for decode in decodings:
            policy: Any = factory(checkpoint, task, decode == "sampled")
            policy.warm_up()
            steps = []
            for k in range(trials):
                seed = derive_seed(SEED, "distillation", connector, k)
                policy.reset(task.instruction(connector), seed)
                outcome = run_episode(env, seed, lambda seen, policy=policy: policy.act(seen)[0])
                if outcome.true_success:
                    steps.append(outcome.steps)
            policy.close()
            mean_s = round(sum(steps) / len(steps) * task.period_ns / 1e9, 3) if steps else None
            yield Score(connector, decode, connector in SEEN, len(steps), trials, mean_s, tuple(steps))
        env.close()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--decode", nargs="+", choices=DECODINGS, default=list(DECODINGS))
    parser.add_argument("--connectors", nargs="+", choices=SEEN + UNSEEN, default=list(SEEN + UNSEEN))
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--backend", default="compact")
    args = parser.parse_args()
    if "greedy" in args.decode and args.backend == "compact":
        config = json.loads((args.checkpoint / "config.json").read_text())
        if config["model"]["decode"] == "sample":
            parser.error(f"{args.checkpoint} samples whatever it is asked: --decode sampled")
    scores = []
    for score in evaluate(args.checkpoint, args.decode, args.connectors, args.episodes, args.backend):
        scores.append(score)
        print(json.dumps({k: v for k, v in asdict(score).items() if k != "steps"}), flush=True)
    for decode in args.decode:
        for seen in (True, False):
            chosen = [s for s in scores if s.decode == decode and s.seen == seen]
            if chosen:
                success, trials = sum(s.success for s in chosen), sum(s.trials for s in chosen)
                print(f"{decode} {'seen' if seen else 'unseen'}: {success}/{trials} = {100 * success / trials:.0f} %")


if __name__ == "__main__":
    main()
