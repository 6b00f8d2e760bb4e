"""Contact of plugs and ports in the preset `bench`: forces of mating, penetration, and what half the time step changes.

`mating`: each connector is inserted slowly and withdrawn, held exactly and without other errors. deviation_n: largest
difference between the force and the profile in connectors.MATING over the middle of the depth; published_max_n: limit
of the insertion force. `penetration`: contacts every 10 ms through episodes of the scripted operator. `half_step`:
such episodes with the physics at 1 and at 2 kHz. Goals: force within the published limit; p99 of the penetration
<= 0.05 mm; success changes by at most 3 in 60, the median of the peak force by at most 15 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from _report import report

from rldg_core.frames import pose_at
from rldg_core.task import Task, find_task
from rldg_sim.cell import Cell
from rldg_sim.episodes import ask
from rldg_sim.mjcf import PHYSICS_STEP_S
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.realism import presets
from rldg_sim.realism.errors import CHUNK_STEPS
from rldg_sim.realism.presets import CellRealism, HandRealism
from rldg_sim.scene import make_operator
from rldg_sim.scenes.connector.connectors import CONNECTORS, MATING

TASKS = Path(__file__).parents[1] / "src" / "rldg_bringup" / "config" / "tasks"
PUBLISHED_MAX_N = {
    "usb_a": 35.0,
    "ethernet": 20.0,
    "vga": 51.0,
    "usb_c": 20.0,
    "hdmi": 44.1,
    "displayport": 44.1,
    "xlr": 20.0,
}
"""Upper limits of the insertion force; sources in connectors.MATING."""
STEP_M = 4e-4
EPISODES = 20
COMPARED_EPISODES = 60
"""With 20 of each connector, chance alone changes the number of successes by five: contact is chaotic."""
SAMPLE_STEPS = 10


def bench_task(**scene: object) -> Task:
    """Return the insertion task in the preset `bench`."""
    task = find_task("insertion", [TASKS])
    return task.with_scene(realism="bench", **scene)


def mating(name: str) -> dict[str, float]:
    """Insert a connector slowly, withdraw it, and compare the forces with its profile."""
    alone = CellRealism(hand=HandRealism(mating=1.0))
    with patch.dict(presets.PRESETS, {"bench": alone}):
        cell = Cell(bench_task(grasp_xy_m=0.0, grasp_yaw_rad=0.0), name, render=False)
    cell.reset(1)
    x, y, z = MATING[name].port_xyz_m
    above = pose_at(cell.task.target_pose_base_tcp, np.zeros(6))
    above[:3] += [x, -y, z + MATING[name].grip_m - 0.02]

    def moved(heights_m: np.ndarray) -> np.ndarray:
        """Return (n, 2): part of the depth, force that presses on the port [N]."""
        rows = []
        for height_m in heights_m:
            frame = cell.step_to(above + np.array([0.0, 0.0, height_m, 0.0, 0.0, 0.0, 0.0]))
            rows.append((frame.object_to_goal[2] / CONNECTORS[name].depth_m, frame.wrench_tcp[2]))
        return np.array(rows)

    moved(np.full(8, 0.012))
    inwards = moved(np.arange(0.012, -0.007, -STEP_M))
    outwards = moved(np.arange(-0.002, 0.02, STEP_M))
    inside = inwards[(inwards[:, 0] > 0.1) & (inwards[:, 0] < 0.93)]
    # While the plug sticks, the force is what the arm pulls with, not yet the limit.
    slides = np.append(np.diff(outwards[:, 0]) < -0.02, False)
    withdrawn = outwards[(outwards[:, 0] > 0.1) & (outwards[:, 0] < 0.9) & slides]
    expected = np.array([MATING[name].force_n(depth, outwards=False) for depth in inside[:, 0]])
    return {
        "depth_reached": round(float(inwards[:, 0].max()), 3),
        "insertion_max_n": round(float(inside[:, 1].max()), 1),
        "published_max_n": PUBLISHED_MAX_N[name],
        "deviation_n": round(float(np.abs(inside[:, 1] - expected).max()), 2),
        "withdrawal_n": round(float(np.median(-withdrawn[:, 1])), 1),
        "stated_withdrawal_n": MATING[name].withdrawal_n,
    }


class Episodes:
    """Episodes of the scripted operator with one connector: successes, peak forces, and penetrations [mm]."""

    def __init__(self, name: str, seeds: range) -> None:
        cell = Cell(bench_task(), name, render=False)
        operator = make_operator(OperatorConfig(), cell.task)
        self.successes = 0
        self.peaks_n: list[float] = []
        self.penetrations_mm: list[float] = []
        simulation = cell._simulation
        advance = simulation.advance

        def sampled(steps: int) -> None:
            for _ in range(0, steps, SAMPLE_STEPS):
                advance(SAMPLE_STEPS)
                contacts = simulation.data.contact
                self.penetrations_mm += [-1e3 * contacts[k].dist for k in range(simulation.data.ncon)]

        with patch.object(simulation, "advance", sampled):
            for seed in seeds:
                frame, peak_n = cell.reset(seed), 0.0
                operator.reset(seed)
                for _ in range(cell.task.episode.max_steps):
                    frame = cell.step(ask(operator, frame)[0])
                    peak_n = max(peak_n, float(np.linalg.norm(frame.wrench_tcp[:3])))
                    if frame.success:
                        break
                self.successes += frame.success
                self.peaks_n.append(peak_n)


@contextmanager
def half_step() -> Iterator[None]:
    """Build cells whose physics advances by half the time step; states for images are as far apart in time."""
    with ExitStack() as stack:
        for module in ("mjcf", "cell", "realism.errors"):
            stack.enter_context(patch(f"rldg_sim.{module}.PHYSICS_STEP_S", PHYSICS_STEP_S / 2))
        stack.enter_context(patch("rldg_sim.realism.errors.CHUNK_STEPS", 2 * CHUNK_STEPS))
        yield


def main() -> None:
    """Run and report."""
    seeds = range(EPISODES)
    runs = {name: Episodes(name, seeds) for name in CONNECTORS}
    compared, more = ("usb_a", "ethernet", "vga"), range(COMPARED_EPISODES)
    whole = [Episodes(name, more) for name in compared]
    with half_step():
        halved = [Episodes(name, more) for name in compared]

    def median_n(episodes: list[Episodes]) -> float:
        return round(float(np.median([peak for run in episodes for peak in run.peaks_n])), 2)

    def p99_mm(episodes: list[Episodes]) -> float:
        return round(float(np.percentile([value for run in episodes for value in run.penetrations_mm], 99)), 4)

    report(
        "contact",
        {
            "mating": {name: mating(name) for name in CONNECTORS},
            "penetration_p99_mm": {name: p99_mm([run]) for name, run in runs.items()},
            "penetration_p99_all_mm": p99_mm(list(runs.values())),
            "success": {name: run.successes for name, run in runs.items()},
            "episodes_each": EPISODES,
            "half_step": {
                "success": [sum(run.successes for run in episodes) for episodes in (whole, halved)],
                "episodes": COMPARED_EPISODES * len(compared),
                "peak_median_n": [median_n(whole), median_n(halved)],
            },
        },
    )


if __name__ == "__main__":
    main()
