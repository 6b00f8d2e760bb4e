"""Lock-step control steps per second through DDS, with the wrist image and a trivial policy.

Goal: >= 100, ten times real time. Reference in the same run: the cell as a library, one process, no ROS.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _report import report

from rldg_bringup.pipeline import arguments_for, resolve_task, stack_client, wait_active

EPISODES = 5
LIBRARY_STEPS = 200


def library_steps_per_s() -> float:
    """Return control steps per second without ROS: physics and one image per step."""
    from rldg_sim.cell import Cell

    cell = Cell(resolve_task("insertion"))
    cell.reset(0)
    start = time.perf_counter()
    for _ in range(LIBRARY_STEPS):
        assert cell.step(np.zeros(6)).image is not None
    return LIBRARY_STEPS / (time.perf_counter() - start)


def main() -> None:
    """Run and report."""
    arguments = replace(arguments_for("insertion", 0), policy="hold")
    with stack_client(arguments, Path("out/bench/log/lockstep")) as (_, client):
        wait_active(client)
        client.run_episodes(1, 1)
        start = time.perf_counter()
        outcome = client.run_episodes(EPISODES, 2)
        wall_s = time.perf_counter() - start
    rate, library = sum(outcome.steps) / wall_s, library_steps_per_s()
    report(
        "lockstep",
        {
            "steps_per_s": round(rate, 1),
            "times_real_time": round(rate / 10, 1),
            "library_steps_per_s": round(library, 1),
            "ratio_to_library": round(rate / library, 3),
        },
    )


if __name__ == "__main__":
    main()
