"""Declares parameters with a description and a range, and refuses bad values in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.node import Node

from rldg_core.errors import UserError
from rldg_core.limits import check_value
from rldg_core.parameter_files import check_parameter_names
from rldg_core.robot import RobotProfile, load_robot
from rldg_core.task import Task, find_task

QOS_OVERRIDES = "qos_overrides."
"""Parameters that rclpy declares for a topic."""
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def parameter(
    node: Node,
    name: str,
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """Declare a parameter, read-only after the start, and return its value.

    `low` and `high` are inclusive and hold for each element of an array; `choices` are the strings that are
    accepted. The type of `default` is binding, and numbers must be finite. `ros2 param describe` shows all of
    it. Raises UserError naming the parameter, the value that was found and what was expected.
    """
    try:
        value = node.declare_parameter(name, default, ParameterDescriptor(description=description)).value
    except InvalidParameterTypeException as error:
        raise UserError(f"parameter {name}: {error}; write it like {default!r}") from None
    if value is None:
        raise UserError(f"parameter {name}: is empty, expected a value like {default!r}")
    check_value(f"parameter {name}", value, low=low, high=high, choices=choices)
    # Set after the check, whose message says more than rclpy's.
    descriptor = _descriptor(default, description, low, high, choices)
    descriptor.type = node.describe_parameter(name).type
    node.set_descriptor(name, descriptor)
    return value


def _descriptor(
    default: Any, description: str, low: float | None, high: float | None, choices: Sequence[str]
) -> ParameterDescriptor:
    # Nodes read their parameters once: a later change would be accepted and have no effect.
    descriptor = ParameterDescriptor(description=description, read_only=True)
    if choices:
        descriptor.additional_constraints = f"one of: {', '.join(choices)}"
    if low is None and high is None:
        return descriptor
    sample = default[0] if isinstance(default, list) else default
    if isinstance(sample, float):
        limits = FloatingPointRange(
            from_value=float(-sys.float_info.max if low is None else low),
            to_value=float(sys.float_info.max if high is None else high),
        )
        descriptor.floating_point_range = [limits]
    else:
        descriptor.integer_range = [
            IntegerRange(
                from_value=_INT64_MIN if low is None else int(low), to_value=_INT64_MAX if high is None else int(high)
            )
        ]
    return descriptor


def task_parameter(node: Node) -> Task:
    """Declare `task` and `task_dirs` and load the task. Raises UserError when it is unknown or malformed."""
    reference = str(parameter(node, "task", "insertion", "Task: NAME, NAME:OBJECT, or the path of a .yaml file."))
    directories = parameter(node, "task_dirs", [""], "Folders searched for task files before the installed ones.")
    return find_task(reference, [*(Path(d) for d in directories if d), *default_task_dirs()])


def check_given_parameters(node: Node, files: Iterable[Path]) -> None:
    """Compare parameter files that a person gave with what the node declared. Raises UserError for unknown names.

    Called when the node has declared its parameters: rclpy itself ignores any other name.
    """
    declared = [name for name in node.list_parameters([], 0).names if not name.startswith(QOS_OVERRIDES)]
    # rclpy has no public list of what was given.
    unknown = [n for n in node._parameter_overrides if n not in declared and not n.startswith(QOS_OVERRIDES)]
    for path in files if unknown else ():
        check_parameter_names(path, node.get_name(), unknown, declared)


def default_robot() -> RobotProfile:
    """Return the robot that a node started by hand belongs to: its topics, names and frames are the defaults.

    It is the simulated one of rldg_bringup; stacks pass those of the robot that they were asked for. Raises UserError
    when rldg_bringup is not installed.
    """
    try:
        share = Path(get_package_share_directory("rldg_bringup"))
    except PackageNotFoundError:
        raise UserError("package rldg_bringup is not installed: its robot profiles hold the default topics") from None
    mouse = {"twist": "twist", "twist_type": "Twist"}
    return load_robot(share / "config" / "robots" / "simulated.yaml", {}, mouse).profile


def default_task_dirs() -> list[Path]:
    """Where the installed task files are (share of rldg_bringup), or nothing when it is not installed."""
    try:
        return [Path(get_package_share_directory("rldg_bringup")) / "config" / "tasks"]
    except PackageNotFoundError:
        return []


def required(value: str, name: str) -> str:
    """Return a non-empty string parameter. Raises UserError naming it."""
    if not value:
        raise UserError(f"parameter {name}: must not be empty")
    return value
