"""The insertion task as shipped but in the ideal cell, and without its variation."""

from __future__ import annotations

from pathlib import Path

import pytest

import rldg_sim  # noqa: F401  (chooses the OpenGL back-end before a test imports mujoco)
from rldg_core.task import Task, find_task

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


@pytest.fixture(scope="session")
def insertion() -> Task:
    """Return the insertion task as shipped, in the ideal cell: most tests here are of its geometry and control."""
    return find_task("insertion", [TASKS]).with_scene(realism="ideal")


@pytest.fixture(scope="session")
def steady(insertion: Task) -> Task:
    """Return the insertion task without variation of grasp and appearance."""
    still = {"light": 0.0, "colour": 0.0, "camera_m": 0.0, "camera_rad": 0.0}
    return insertion.with_scene(grasp_xy_m=0.0, grasp_yaw_rad=0.0, **still)
