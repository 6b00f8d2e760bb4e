"""Joints by name: sensor_msgs/JointState in any order, with other joints among them, under any prefix.

A JointState is a dictionary, not a vector: an arm's driver may publish its joints in order, but merged topics
(joint_state_publisher, `/joint_states`) sort by name or put the fingers first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from rldg_core.errors import quoted
from rldg_core.types import Float64

ARM_JOINTS = 7
FINGERS = 2

_PREFIX = r"(?P<prefix>(?:.*[_/])?)"
_ARM_JOINT = re.compile(rf"{_PREFIX}(?<!finger_)joint_?(?P<number>[1-7])", re.DOTALL)
_FINGER_JOINT = re.compile(rf"{_PREFIX}finger_joint_?(?P<number>[12])", re.DOTALL)
_SHOWN_NAMES = 12


def positions_of(expected: Sequence[str], names: Sequence[str], positions: Sequence[float]) -> Float64:
    """Return the positions of the joints `expected`, (len(expected),); every other joint is ignored.

    Raises ValueError when names and positions differ in number, or an expected joint is missing, there twice or not
    finite.
    """
    _check_number(names, positions)
    wanted, found = set(expected), dict[str, float]()
    for name, position in zip(names, positions, strict=True):
        if name in found:
            raise ValueError(f"joint {quoted(name)} is there twice, expected it once")
        if name in wanted:
            found[name] = float(position)
    if missing := [name for name in expected if name not in found]:
        raise ValueError(f"joints are {_list(names)}, expected {_list(missing)}, too")
    for name, position in found.items():
        if not math.isfinite(position):
            raise ValueError(f"joint {quoted(name)} is {position}, expected a finite position")
    return np.array([found[name] for name in expected], dtype=np.float64)


def arm_positions(names: Sequence[str], positions: Sequence[float]) -> Float64:
    """Return the positions of `<prefix>joint1` .. `<prefix>joint7`, (7,) [rad].

    The prefix (`arm_`, `robot1_arm_`, none) must be the same for all seven; every other joint is ignored.
    Raises ValueError when names and positions differ in number, or a joint is missing, there twice (two arms in one
    message) or not finite.
    """
    return np.array(_positions(names, positions, _ARM_JOINT, "joint", ARM_JOINTS), dtype=np.float64)


def finger_width_m(names: Sequence[str], positions: Sequence[float]) -> float:
    """Return the distance between the fingers: `<prefix>finger_joint1` + `<prefix>finger_joint2` [m].

    Raises ValueError as `arm_positions` does.
    """
    return float(sum(_positions(names, positions, _FINGER_JOINT, "finger_joint", FINGERS)))


def is_one_of_two_fingers(name: str, names: Sequence[str]) -> bool:
    """Whether `name` is `<prefix>finger_joint1` or `2`, and both are among `names`."""
    if not (match := _FINGER_JOINT.fullmatch(name)):
        return False
    prefix = match["prefix"]
    numbers = {
        other["number"] for one in names if (other := _FINGER_JOINT.fullmatch(one)) and other["prefix"] == prefix
    }
    return len(numbers) == FINGERS


def _positions(
    names: Sequence[str], positions: Sequence[float], pattern: re.Pattern[str], what: str, count: int
) -> list[float]:
    expected = f"{what}1 to {what}{count} of one robot, each once, under one prefix such as arm_ or none"
    _check_number(names, positions)
    found: dict[str, dict[int, float]] = {}
    for name, position in zip(names, positions, strict=True):
        if match := pattern.fullmatch(name):
            numbered, number = found.setdefault(match["prefix"], {}), int(match["number"])
            if number in numbered:
                raise ValueError(f"joint {quoted(name)} is there twice, expected {expected}")
            numbered[number] = float(position)
    if len(found) != 1 or len(next(iter(found.values()))) != count:
        raise ValueError(f"joints are {_list(names)}, expected {expected}")
    ((prefix, numbered),) = found.items()
    for number in range(1, count + 1):
        if not math.isfinite(numbered[number]):
            name = quoted(f"{prefix}{what}{number}")
            raise ValueError(f"joint {name} is {numbered[number]}, expected a finite position")
    return [numbered[number] for number in range(1, count + 1)]


def _check_number(names: Sequence[str], positions: Sequence[float]) -> None:
    if len(names) != len(positions):
        raise ValueError(f"{len(names)} joint names with {len(positions)} positions, expected a position for each name")


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:_SHOWN_NAMES]) or "not named"
    return shown + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")
