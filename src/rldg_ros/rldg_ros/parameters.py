"""Parameters that several nodes share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.node import Node

from rldg_core.errors import UserError
from rldg_core.task import Task, find_task


def parameter(node: Node, name: str, default: Any) -> Any:
    """Declare a parameter and return its value; the default's type is binding."""
    return node.declare_parameter(name, default).value


def task_parameter(node: Node) -> Task:
    """Declare `task` and `task_dirs` and load the task. Raises UserError when it is unknown or malformed."""
    reference = str(parameter(node, "task", "insertion"))
    directories = [Path(d) for d in parameter(node, "task_dirs", [""]) if d]
    return find_task(reference, [*directories, *default_task_dirs()])


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
