"""Waiting for conditions inside a coroutine of a single-threaded node: no sleep, no thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from rclpy.node import Node
from rclpy.task import Future

from rldg_control.nodes.reporting import steady_timer

POLL_S = 0.05


@dataclass
class _Wait:
    condition: Callable[[], bool]
    future: Future
    deadline_s: float
    stable_s: float
    true_since_s: float | None = None


class Waiter:
    """`await waiter.until(condition, timeout_s)`; conditions are looked at 20 times a second and on `look`."""

    def __init__(self, node: Node) -> None:
        self._waits: list[_Wait] = []
        steady_timer(node, POLL_S, self.look)

    async def until(self, condition: Callable[[], bool], timeout_s: float, stable_s: float = 0.0) -> bool:
        """Return True once the condition has held for `stable_s`, False after `timeout_s`."""
        if stable_s == 0.0 and condition():
            return True
        wait = _Wait(condition, Future(), monotonic() + timeout_s, stable_s)
        self._waits.append(wait)
        return bool(await wait.future)

    def look(self) -> None:
        """Look at all conditions now."""
        now_s = monotonic()
        for wait in list(self._waits):
            if not wait.condition():
                wait.true_since_s = None
            elif wait.true_since_s is None:
                wait.true_since_s = now_s
            held = wait.true_since_s is not None and now_s - wait.true_since_s >= wait.stable_s
            if held or now_s > wait.deadline_s:
                self._waits.remove(wait)
                wait.future.set_result(held)
