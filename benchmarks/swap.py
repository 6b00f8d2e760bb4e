"""100 policy swaps by service while the real-time stack runs at 10 Hz; goal: 0 missed ticks.

Swaps between a compact generalist (random weights: speed does not depend on skill) and the scripted policy.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from _report import report

from rldg_bringup.pipeline import resolve_task, simulated
from rldg_bringup.swap import swap_under_load
from rldg_policy.compact.checkpoint import write_checkpoint
from rldg_policy.compact.config import ACTION_DIM, ModelConfig
from rldg_policy.compact.model import CompactModel

SWAPS = 100


def write_untrained(folder: Path) -> None:
    """A compact checkpoint with random weights whose actions span a tenth of the task's scale."""
    task = resolve_task("insertion")
    limit = [0.1 * task.action.scale_m] * 3 + [0.1 * task.action.scale_rad] * 3 + [1.0]
    low = [-v for v in limit[:6]] + [0.0]
    statistics = {"action": {"q01": low, "q99": limit, "mask": [True] * 6 + [False] * (ACTION_DIM - 6)}}
    write_checkpoint(folder, CompactModel(ModelConfig()), task.name, "untrained", statistics, {"steps": 0})


def main() -> None:
    """Run and report."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "compact"
        write_untrained(checkpoint)
        policies = {"compact": ("compact", str(checkpoint)), "scripted": ("scripted", "")}
        arguments = replace(simulated("insertion", 0), use_sim_time=False)
        result = swap_under_load(arguments, policies, SWAPS, 0, Path("out/bench/log/swap"))
    report("swap", result)


if __name__ == "__main__":
    main()
