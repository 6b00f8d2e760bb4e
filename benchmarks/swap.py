"""100 policy swaps by service while the real-time stack runs at 10 Hz; goal: 0 missed ticks.

Swaps between a compact generalist (random weights: speed does not depend on skill) and the scripted policy.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from _report import report

from rldg_bringup.pipeline import simulated
from rldg_bringup.swap import swap_under_load
from rldg_policy.compact.checkpoint import write_random
from rldg_policy.compact.config import ModelConfig

SWAPS = 100


def main() -> None:
    """Run and report."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "compact"
        write_random(checkpoint, ModelConfig(), 0)
        policies = {"compact": ("compact", str(checkpoint)), "scripted": ("scripted", "")}
        arguments = replace(simulated("insertion", 0), use_sim_time=False)
        result = swap_under_load(arguments, policies, SWAPS, 0, Path("out/bench/log/swap"))
    report("swap", result)


if __name__ == "__main__":
    main()
