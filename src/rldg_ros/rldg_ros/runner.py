"""Start and end of a node: signals, exit codes and one-line errors."""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import rclpy
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from rldg_core.errors import UserError, report
from rldg_core.network import prepare_network
from rldg_ros.clock import make_sim_time_read_only, watch_clock
from rldg_ros.log import Log
from rldg_ros.parameters import check_given_parameters, parameter

try:
    # Half the CPU of the default executor per message (docs/explanation/architecture.md, Speed); not in every Jazzy.
    from rclpy.experimental import EventsExecutor as DefaultExecutor
except ImportError:
    DefaultExecutor = SingleThreadedExecutor

NodeT = TypeVar("NodeT", bound=Node)

POLL_S = 0.1
"""Period at which a spinning node checks for a signal; limits the delay after Ctrl-C."""


LAUNCHER_PID = "RLDG_LAUNCHER_PID"
"""Environment variable: process that started the node. Set by the launch files and by `rldg up`, not by a shell."""

DESTROY_S = 5.0
"""Time for the destruction of a node, after which the process ends without it."""
GATE_FIRST_S = 2.0
"""How long the other nodes of a stack continue after SIGINT, while the gate sends the measured pose."""


class _Stopped(BaseException):
    """Raised by a signal while the node is constructed."""


def run_node(
    make_node: Callable[[], NodeT],
    on_stop: Callable[[NodeT], None] | None = None,
    make_executor: Callable[[], Executor] = DefaultExecutor,
) -> int:
    """Make a node, spin it until SIGINT or SIGTERM, shut it down, and return the exit code.

    The context is still alive when `on_stop(node)` runs, so that the gate can send its last pose: rclpy's
    own handlers would shut it down first. An exception (from rclpy, the constructor or a callback) ends the
    process with one line on standard error: code 2 for a UserError and for what the system refuses, else 1.

    A node that was started by a launcher (environment variable RLDG_LAUNCHER_PID) gets SIGINT when that process
    ends, however it ends, and after SIGINT it continues until the gate of its namespace ended, at most GATE_FIRST_S.
    SIGTERM ends it at once. A node that was started by hand ends with signals alone.
    """
    received: list[int] = []
    starting = True

    def request_stop(number: int, _frame: FrameType | None) -> None:
        nonlocal starting
        received.append(number)
        if starting:
            starting = False
            raise _Stopped  # construction may take half a minute, and nothing depends on the node yet

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    node: NodeT | None = None
    code = 0
    try:
        _end_with_launcher()
        prepare_network()
        rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
        starting = False
        check_given_parameters(node, given_files(sys.argv))
        make_sim_time_read_only(node)
        watch_clock(node)
        executor = make_executor()
        executor.add_node(node)
        try:
            while not received and rclpy.ok():
                executor.spin_once(timeout_sec=POLL_S)
            deadline = time.monotonic() + GATE_FIRST_S
            while signal.SIGTERM not in received and time.monotonic() < deadline and _gate_runs_beside(node):
                executor.spin_once(timeout_sec=POLL_S)
        finally:
            # In-flight coroutines (loading a policy) end with the process; they hold no file open.
            executor.remove_node(node)
            if on_stop:
                on_stop(node)
    except Exception as error:
        starting = False
        code = report(node.get_name() if node else _program(), error)
    except _Stopped:
        pass
    finally:
        starting = False
        if node:
            # Fast DDS can spin for ever in the destructor of a participant whose peers were killed, with the
            # interpreter locked. Everything is stopped and written by now.
            faulthandler.dump_traceback_later(DESTROY_S, exit=True, file=sys.__stderr__ or sys.stderr)
            node.destroy_node()
        rclpy.try_shutdown()
        faulthandler.cancel_dump_traceback_later()
    return code


def given_files(arguments: Sequence[str]) -> list[Path]:
    """Return the parameter files that a person gave: the first one of a launched node is the launcher's own.

    It says for each node what the stack knows, whichever of it the node needs in its mode.
    """
    files = [Path(path) for option, path in pairwise(arguments) if option == "--params-file"]
    return files[1:] if LAUNCHER_PID in os.environ else files


def _end_with_launcher() -> None:
    """Send SIGINT to this process when the launcher has ended, now if it ended before this call."""
    launcher = os.environ.get(LAUNCHER_PID, "")
    if not launcher.isdecimal():
        return
    try:
        descriptor = os.pidfd_open(int(launcher))
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGINT)
        return

    def wait() -> None:
        select.select([descriptor], [], [])  # readable when the process has ended
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, name="launcher", daemon=True).start()


def _gate_runs_beside(node: Node) -> bool:
    """True while a node `gate` of the same namespace is in the graph of a launched stack, this one apart."""
    if LAUNCHER_PID not in os.environ or node.get_name() == "gate":
        return False
    return ("gate", node.get_namespace()) in node.get_node_names_and_namespaces()


def _program() -> str:
    """Name of the executable; "node" under `python -c`."""
    name = Path(sys.argv[0]).name
    return "node" if name.startswith("-") else name


TransitionT = TypeVar("TransitionT", bound=Callable[..., TransitionCallbackReturn])


def transition(callback: TransitionT) -> TransitionT:
    """Make a UserError in a transition callback a failed transition with its reason.

    rclpy swallows exceptions of transition callbacks; `autostart` would then know that it failed, not why.
    """

    @wraps(callback)
    def wrapped(node: LifecycleNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return callback(node, state)
        except UserError as error:
            Log(node).error(str(error))
            _reasons[node] = str(error)
            return TransitionCallbackReturn.FAILURE

    return cast(TransitionT, wrapped)


_reasons: WeakKeyDictionary[LifecycleNode, str] = WeakKeyDictionary()


def autostart(node: LifecycleNode) -> None:
    """Declare `autostart` (default true) and, when set, configure and activate the node.

    The node brings itself up, so that `ros2 launch` and `rldg up` need no lifecycle manager; with
    autostart:=false an external one (nav2's, `ros2 lifecycle set`) decides. Raises UserError when a
    transition fails.
    """
    if not parameter(node, "autostart", True, "Configure and activate at the start; false: an external manager does."):
        return
    for name, trigger in (("configure", node.trigger_configure), ("activate", node.trigger_activate)):
        if trigger() != TransitionCallbackReturn.SUCCESS:
            raise UserError(_reasons.get(node, f"transition {name} failed"))
