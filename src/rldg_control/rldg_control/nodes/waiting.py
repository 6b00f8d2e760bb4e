"""Waiting for conditions inside a coroutine of a single-threaded node: no sleep, no thread.

rclpy polls its own coroutines at every turn of the executor, which costs a third of the time of the control path
(SingleThreadedExecutor) or a whole core (EventsExecutor). A Routine is resumed only when its condition holds.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from time import monotonic
from types import coroutine
from typing import Any

from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node

from rldg_core.errors import UserError
from rldg_ros.reporting import steady_timer

POLL_S = 0.05

FOREVER_S = 1e9


@dataclass
class _Wait:
    condition: Callable[[], bool]
    deadline_s: float
    stable_s: float
    true_since_s: float | None = None


class Routine:
    """Runs one coroutine at a time that may `await routine.until(...)` and nothing else."""

    def __init__(self, node: Node) -> None:
        self._coroutine: Coroutine[_Wait, bool, None] | None = None
        self._wait: _Wait | None = None
        steady_timer(node, POLL_S, self.check)

    def start(self, body: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine up to its first wait."""
        self._coroutine = body
        self._resume(None)

    @coroutine
    def until(
        self, condition: Callable[[], bool], timeout_s: float, stable_s: float = 0.0
    ) -> Generator[_Wait, bool, bool]:
        """Return True once the condition has held for `stable_s`, False after `timeout_s`."""
        if stable_s == 0.0 and condition():
            return True
        return (yield _Wait(condition, monotonic() + timeout_s, stable_s))

    def check(self) -> None:
        """Check the condition now instead of at the next poll."""
        wait, now_s = self._wait, monotonic()
        if wait is None:
            return
        if not wait.condition():
            wait.true_since_s = None
        elif wait.true_since_s is None:
            wait.true_since_s = now_s
        held = wait.true_since_s is not None and now_s - wait.true_since_s >= wait.stable_s
        if held or now_s > wait.deadline_s:
            self._resume(held)

    def _resume(self, value: Any) -> None:
        assert self._coroutine is not None
        self._wait = None
        try:
            self._wait = self._coroutine.send(value)
        except StopIteration:
            self._coroutine = None


@dataclass(frozen=True)
class GoalWait:
    """Waits on behalf of a goal: a cancel ends every wait."""

    routine: Routine
    handle: ServerGoalHandle

    async def holds(self, condition: Callable[[], bool], timeout_s: float, stable_s: float = 0.0) -> bool:
        """Return whether the condition held before the time-out. Raises UserError on a cancel."""
        done = await self.routine.until(lambda: self.handle.is_cancel_requested or condition(), timeout_s, stable_s)
        if self.handle.is_cancel_requested:
            raise UserError("cancelled")
        return bool(done)

    async def until(
        self, condition: Callable[[], bool], timeout_s: float, complaint: str, stable_s: float = 0.0
    ) -> None:
        """Wait for a condition. Raises UserError on a time-out (with the text `complaint`) and on a cancel."""
        if not await self.holds(condition, timeout_s, stable_s):
            raise UserError(complaint)
