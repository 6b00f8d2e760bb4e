"""What a stack declares: node processes and vendors' launch files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rldg_core.task import Task

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class NodeSpec:
    """One node process. `namespace` is absolute. `arguments` are passed before the ROS arguments."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: Parameters = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    one_shot: bool = False  # ends by itself (a spawner); its end does not end the stack


@dataclass(frozen=True)
class IncludeSpec:
    """A vendor's launch file: IncludeLaunchDescription under `launch`, `ros2 launch` as a process.

    `files` are arguments whose value is the path of a file with this text, written at the start.
    """

    package: str
    launch_file: str
    arguments: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """Nodes in starting order. They end in the reverse order, except that `gate` ends first: it must send
    the measured pose while the sensors still run.

    notices: one line each for what the task says and this stack does not apply; printed before anything starts.
    """

    task: Task
    nodes: tuple[NodeSpec, ...]
    includes: tuple[IncludeSpec, ...]
    notices: tuple[str, ...] = ()

    @property
    def namespace(self) -> str:
        """Of our nodes; "" in a stack of drivers alone."""
        return next((n.namespace for n in self.nodes if n.name == "gate"), "")

    def node(self, name: str) -> NodeSpec:
        """Find a node by name; KeyError when the stack has none."""
        return {n.name: n for n in self.nodes}[name]
