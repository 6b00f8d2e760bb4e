"""Starting and ending a node: one place for signals, exit codes and one-line errors."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from functools import wraps
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
from rldg_ros.clock import watch_clock
from rldg_ros.parameters import parameter

try:
    # Half the CPU of the default executor per message (docs/architecture.md, Speed); not in every Jazzy.
    from rclpy.experimental import EventsExecutor as DefaultExecutor
except ImportError:
    DefaultExecutor = SingleThreadedExecutor

NodeT = TypeVar("NodeT", bound=Node)

POLL_S = 0.1
"""How often a spinning node looks at its stop flag: bounds the reaction to Ctrl-C."""


def run_node(
    make_node: Callable[[], NodeT],
    on_stop: Callable[[NodeT], None] | None = None,
    make_executor: Callable[[], Executor] = DefaultExecutor,
) -> int:
    """Make a node, spin it until SIGINT or SIGTERM, end it in order, and return the exit code.

    The context is still alive when `on_stop(node)` runs, so that the gate can send its last pose: rclpy's
    own handlers would shut it down first. An exception (from rclpy, the constructor or a callback) ends the
    process with one line on standard error: code 2 for a UserError and for what the system refuses, else 1.
    """
    stop = False

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    node: NodeT | None = None
    code = 0
    try:
        prepare_network()
        rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
        watch_clock(node)
        executor = make_executor()
        executor.add_node(node)
        try:
            while not stop and rclpy.ok():
                executor.spin_once(timeout_sec=POLL_S)
        finally:
            # In-flight coroutines (loading a policy) end with the process; they hold no file open.
            executor.remove_node(node)
            if on_stop:
                on_stop(node)
    except Exception as error:
        code = report(node.get_name() if node else _program(), error)
    finally:
        if node:
            node.destroy_node()
        rclpy.try_shutdown()
    return code


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
            node.get_logger().error(str(error))
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
