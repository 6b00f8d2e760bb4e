"""Print the parameters of every node as JSON: what the nodes themselves declare, observed by making each of them.

    python docs/_ext/node_parameters.py > parameters.json

Runs in a process of its own, since it wraps two methods of rclpy and starts every node of the workspace once.
Output: {node: [{"name", "default", "type", "description", "limits"}, ...]}, nodes and parameters sorted by name.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

PACKAGES = ("rldg_control", "rldg_data", "rldg_policy", "rldg_rl", "rldg_sim")
ROS_OWN = ("use_sim_time", "start_type_description_service")
FOLDERS = {"recorder": ["bag_dir"], "learner": ["run_dir"], "reward": ["classifier"]}
"""Parameters without which a node does not get as far as declaring the others."""
LARGEST = 1e300
"""rclpy has no open range: a bound beyond this, or at the end of int64, stands for none."""

Declared = dict[str, dict[str, Any]]


def executables() -> list[tuple[str, str]]:
    """Return name and module of every node executable of the workspace."""
    found = []
    for package in PACKAGES:
        for script in distribution(package).entry_points.select(group="console_scripts"):
            if ".nodes." in script.value:
                found.append((script.name, script.value.split(":")[0]))
    return sorted(found)


def limits(descriptor: ParameterDescriptor) -> str:
    """Return the range of a parameter as text, empty where it has none."""
    if descriptor.additional_constraints:
        return str(descriptor.additional_constraints)
    for bounds in (*descriptor.integer_range, *descriptor.floating_point_range):
        open_low = bounds.from_value < -LARGEST or bounds.from_value == -(2**63)
        open_high = bounds.to_value > LARGEST or bounds.to_value == 2**63 - 1
        if open_low and open_high:
            return ""
        if open_high:
            return f"{bounds.from_value} or more"
        return f"{bounds.to_value} or less" if open_low else f"{bounds.from_value} to {bounds.to_value}"
    return ""


def declared_by(module_name: str, arguments: list[str]) -> Declared:
    """Make the node of a module and return what it declares.

    A node may refuse its arguments after its declarations (`reward` finds no classifier in an empty folder).
    """
    declared: Declared = {}
    declare, describe = Node.declare_parameter, Node.set_descriptor

    def declare_parameter(node: Node, name: str, value: Any = None, *rest: Any, **options: Any) -> Any:
        if name not in ROS_OWN:
            declared[name] = {"name": name, "default": value, "type": type(value).__name__}
        return declare(node, name, value, *rest, **options)

    def set_descriptor(node: Node, name: str, descriptor: ParameterDescriptor, *rest: Any) -> Any:
        if name in declared:
            declared[name].update(description=descriptor.description, limits=limits(descriptor))
        return describe(node, name, descriptor, *rest)

    module = importlib.import_module(module_name)
    (make,) = [
        item
        for _, item in inspect.getmembers(module, inspect.isclass)
        if issubclass(item, Node) and item.__module__ == module_name
    ]
    rclpy.init(args=["--ros-args", "--log-level", "fatal", *arguments])
    Node.declare_parameter, Node.set_descriptor = declare_parameter, set_descriptor
    try:
        make().destroy_node()
    except Exception as error:
        print(f"node_parameters: {module_name}: {error}", file=sys.stderr)
        if not arguments:
            raise
    finally:
        Node.declare_parameter, Node.set_descriptor = declare, describe
        rclpy.shutdown()
    return {name: entry for name, entry in declared.items() if not name.startswith("qos_")}


def main() -> None:
    """Entry point."""
    os.environ.setdefault("ROS_DOMAIN_ID", "97")
    result: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, module in executables():
            arguments = [part for key in FOLDERS.get(name, ()) for part in ("-p", f"{key}:={Path(folder) / name}")]
            found = declared_by(module, arguments)
            for entry in found.values():
                if isinstance(entry["default"], str) and folder in entry["default"]:
                    raise RuntimeError(f"{name}: the default of {entry['name']} is a folder of this script")
            result[name] = sorted(found.values(), key=lambda entry: str(entry["name"]))
    json.dump(result, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
