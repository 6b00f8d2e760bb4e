"""Starts a declared stack as processes where `launch` is not installed, and ends it in the same order.

Children run in sessions of their own, so that Ctrl-C reaches this process alone and the order holds:
`gate` first (it sends the measured pose while the sensors still run), then the rest at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix

from rldg_bringup.declaration import IncludeSpec, NodeSpec, Stack
from rldg_core.errors import UserError
from rldg_core.files import open_regular
from rldg_core.leftovers import ScratchFolder, remove_leftovers, stack_key
from rldg_core.network import domain_id
from rldg_ros.runner import LAUNCHER_PID

GATE_TIMEOUT_S = 3.0
"""How long the others wait for the gate to end. It takes 0.2 s on an idle machine."""

STOP_TIMEOUT_S = 10.0
"""Whole shutdown, `gate` included; what is left after it is killed. It takes 1 to 2 s on an idle machine; a node that
was killed because the machine is busy would lose data."""

PR_SET_PDEATHSIG = 1

LAST_BYTES = 65536
"""Of a log, to find its last line in."""


@dataclass(frozen=True)
class RunningNode:
    """A started process and where its output goes. name: of its files, unique in its stack."""

    spec: NodeSpec | IncludeSpec
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class StackProcess:
    """A running stack. Use `running_stack`."""

    def __init__(self, stack: Stack, log_dir: Path, params_file: str, log_level: str) -> None:
        self.stack = stack
        self.log_dir = log_dir
        log_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers()
        self._scratch = ScratchFolder(stack_key(domain_id(), stack.namespace) if stack.namespace else "")
        self._nodes: list[RunningNode] = []
        try:
            for include in stack.includes:
                self._start(include, include.package, _include_command(include, log_dir))
            for name, node in unique_names(stack.nodes).items():
                parameters = self._scratch.path / f"{name}.yaml"
                self._start(node, name, _node_command(node, parameters, params_file, log_level))
        except BaseException:
            self.stop()
            raise

    def _start(self, spec: NodeSpec | IncludeSpec, name: str, command: list[str]) -> None:
        log = self.log_dir / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, LAUNCHER_PID: str(os.getpid())},
                start_new_session=True,
                preexec_fn=partial(_end_with_parent, os.getpid()),
            )
        self._nodes.append(RunningNode(spec, name, process, log))

    @property
    def nodes(self) -> tuple[RunningNode, ...]:
        return tuple(self._nodes)

    def check(self) -> None:
        """Raise UserError naming the first node that ended, with the last line it printed."""
        for node in self._nodes:
            code = node.process.poll()
            one_shot = isinstance(node.spec, NodeSpec) and node.spec.one_shot
            if code is not None and not (one_shot and code == 0):
                raise UserError(f"node {node.name} ended with code {code}: {last_line(node.log)} (log: {node.log})")

    def stop(self) -> None:
        """End every process: gate first, then the rest; kill what does not end in time."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        first = [n for n in self._nodes if n.name == "gate"]
        rest = [n for n in reversed(self._nodes) if n.name != "gate"]
        for group in (first, rest):
            for node in group:
                # SIGTERM: at once, the gate has ended. `ros2 launch` ends its own nodes on SIGINT only.
                at_once = group is rest and isinstance(node.spec, NodeSpec)
                _signal_group(node.process, signal.SIGTERM if at_once else signal.SIGINT)
            for node in group:
                limit = min(deadline, time.monotonic() + GATE_TIMEOUT_S) if group is first else deadline
                try:
                    node.process.wait(max(0.0, limit - time.monotonic()))
                except subprocess.TimeoutExpired:
                    if group is rest:
                        _signal_group(node.process, signal.SIGKILL)
        for node in self._nodes:
            if node.process.poll() is None:
                _signal_group(node.process, signal.SIGKILL)
            node.process.wait()
        self._nodes.clear()
        self._scratch.cleanup()


@contextmanager
def running_stack(
    stack: Stack, log_dir: Path, params_file: str = "", log_level: str = "info"
) -> Iterator[StackProcess]:
    """Print the notices of a stack, start it, yield it, and end it whatever happens.

    Raises UserError when a package is missing.
    """
    for notice in stack.notices:
        print(f"rldg: {notice}", file=sys.stderr, flush=True)
    process = StackProcess(stack, log_dir, params_file, log_level)
    try:
        yield process
    finally:
        process.stop()


def executable_path(package: str, executable: str) -> Path:
    """Find `<prefix>/lib/<package>/<executable>`, as `ros2 run` does. Raises UserError when it is missing."""
    try:
        path = Path(get_package_prefix(package)) / "lib" / package / executable
    except PackageNotFoundError:
        raise UserError(f"package {package!r} is not installed; is the workspace sourced?") from None
    if not path.is_file():
        raise UserError(f"package {package!r} has no executable {executable!r} (looked for {path})")
    return path


def parameter_file(node: NodeSpec) -> str:
    """The node's parameters as a ROS parameter file (YAML text), keyed by its full name."""
    full_name = f"{node.namespace.rstrip('/')}/{node.name}"
    return yaml.safe_dump({full_name: {"ros__parameters": dict(node.parameters)}})


def unique_names(nodes: Sequence[NodeSpec]) -> dict[str, NodeSpec]:
    """Names for the files of nodes: a node's name, after its namespace where another node has the same name."""
    names = [node.name for node in nodes]
    return {
        f"{node.namespace.strip('/').replace('/', '.')}.{node.name}" if names.count(node.name) > 1 else node.name: node
        for node in nodes
    }


def _node_command(node: NodeSpec, path: Path, params_file: str, log_level: str) -> list[str]:
    path.write_text(parameter_file(node))
    command = [str(executable_path(node.package, node.executable)), *node.arguments, "--ros-args"]
    command += ["-r", f"__node:={node.name}", "-r", f"__ns:={node.namespace}"]
    command += ["--params-file", str(path)]
    if params_file:
        command += ["--params-file", params_file]
    return [*command, "--log-level", log_level]


def _include_command(include: IncludeSpec, log_dir: Path) -> list[str]:
    arguments = [f"{name}:={value}" for name, value in include.arguments.items() if value]
    for name, text in include.files.items():
        file = log_dir.absolute() / f"{name}.yaml"
        file.write_text(text)
        arguments.append(f"{name}:={file}")
    return ["ros2", "launch", include.package, include.launch_file, *arguments]


def _end_with_parent(parent: int) -> None:
    """In the child: get SIGINT when the parent dies, so that a killed runner leaves no driver behind (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended already, which is what the signal was for
        os.killpg(process.pid, number)


def last_line(log: Path) -> str:
    """Return the last line of a node's log that is not blank."""
    with open_regular(log) as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        text = file.read(LAST_BYTES).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
