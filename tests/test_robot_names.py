"""A robot is named only where it is the subject: its profile, its hand's driver, its model, and imports of its data.

Everything else takes names from the robot profile or refers to arms, hands and controllers in general; otherwise a
second robot would need edits in many packages.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ROBOT = re.compile(r"franka|panda(?!s)|fr3|\bfer_|\biiwa|kinova|\bxarm|\bur\d+e?\b", re.IGNORECASE)

SUBJECTS = {
    "src/rldg_control/rldg_control/nodes/franka_hand.py": "driver of that hand",
    "src/rldg_sim/rldg_sim/panda.py": "the simulated arm",
    "src/rldg_sim/rldg_sim/realism/presets.py": "errors of that arm, as measured on real ones",
    "src/rldg_data/rldg_data/lerobot/components.py": "words in the feature names of datasets recorded elsewhere",
}
"""Modules that are about one robot, and why."""

MODULES = re.compile(r"\brldg_sim\.panda\b|\bfranka_hand\b|\bFrankaHand\b")
"""How other modules refer to them."""


def python_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if name.endswith(".py") and "/test/" not in name]


def named_in(text: str) -> list[str]:
    """Return the lines that name a robot."""
    return [line.strip() for line in text.splitlines() if ROBOT.search(MODULES.sub("", line))]


def test_no_robot_is_named_outside_its_own_modules() -> None:
    files = [name for name in python_files() if name not in SUBJECTS]
    assert len(files) > 200
    found = {name: lines for name in files if (lines := named_in((ROOT / name).read_text(encoding="utf-8")))}
    assert not found


def test_every_listed_module_names_a_robot() -> None:
    assert [name for name in SUBJECTS if not named_in((ROOT / name).read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("line", "names_one"),
    [
        ('STATE = "franka_robot_state_broadcaster"', True),
        ('JOINTS = [f"fr3_joint{k}" for k in range(1, 8)]', True),
        ("the longest arm in use (UR20)", True),
        ("from rldg_sim.panda import HAND_TCP_M  # of the Panda", True),
        ("from rldg_sim.panda import HAND_TCP_M", False),
        ("hand = FrankaHand(node, config)", False),
        ("import pandas", False),
        ("your camera", False),
    ],
)
def test_robot_names_are_recognised(line: str, names_one: bool) -> None:
    assert bool(named_in(line)) is names_one
