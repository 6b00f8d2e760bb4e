"""The ideal cell is what it was before there were others: results that were obtained in it stay comparable."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from rldg_core.task import find_task
from rldg_sim.cell import Cell

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"
GRID = 4


class Seen(NamedTuple):
    """The last of twelve steps, at the commit before the first error was added.

    image: mean colours of the first row of a GRID x GRID image.
    """

    object: str
    pose_base_tcp: list[float]
    wrench_tcp: list[float]
    object_to_goal: list[float]
    image: list[float]


BEFORE = {
    "insertion": Seen(
        "vga",
        [0.538104416, 0.049981437, 0.156190871, 0.998450152, 0.050026289, 0.024349467, 0.001329947],
        [3.779861, 0.340128, 19.093681, -0.139246, 0.173407, 0.024477],
        [0.039340876, -0.050089322, -0.000220245, -0.001368105, 0.024347353, -0.05159098, 0.998370525],
        [127.6, 131.04, 142.68, 121.8, 125.47, 136.77, 116.37, 119.88, 130.33, 110.99, 114.29, 123.91],
    ),
    "pick_and_place": Seen(
        "green_pepper",
        [0.567379263, 0.150814621, 0.013762873, 0.995833754, 0.076624358, 0.049435163, 8.8546e-05],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.016405506, -0.267156741, 0.021054453, 0.0, -0.0, -0.177699245, 0.984084843],
        [130.0, 138.0, 148.0, 130.0, 138.0, 148.0, 130.0, 138.0, 148.0, 130.0, 138.0, 148.0],
    ),
    "fmb_insertion": Seen(
        "rectangle",
        [0.527366675, 0.066407865, 0.085469856, 0.99502983, 0.091447117, 0.039360134, 0.001960078],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.028996876, -0.064640219, -0.011350176, -0.003240324, 0.036165864, -0.06409877, 0.997282747],
        [192.0, 161.0, 134.0, 192.0, 161.0, 134.0, 192.0, 161.0, 134.0, 192.0, 161.0, 134.0],
    ),
}


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_ideal_cell_is_what_it_was(name: str) -> None:
    """Numbers, not a hash of all bytes: another processor rounds the last bits otherwise."""
    before = BEFORE[name]
    task = find_task(name, [TASKS]).with_scene(realism="ideal")
    cell = Cell(task, before.object)
    action = np.zeros(task.action.dim)
    action[:6] = [0.4, -0.3, 1.0, 0.0, 0.1, -0.2]
    cell.reset(7)
    for _ in range(12):
        frame = cell.step(action)
    cell.close()
    np.testing.assert_allclose(frame.pose_base_tcp, before.pose_base_tcp, atol=1e-7)
    np.testing.assert_allclose(frame.object_to_goal, before.object_to_goal, atol=1e-7)
    np.testing.assert_allclose(frame.wrench_tcp, before.wrench_tcp, atol=1e-3)
    height, width, _ = frame.image.shape
    tiles = frame.image.reshape(GRID, height // GRID, GRID, width // GRID, 3).mean((1, 3))
    np.testing.assert_allclose(tiles[0].ravel(), before.image, atol=0.5)
