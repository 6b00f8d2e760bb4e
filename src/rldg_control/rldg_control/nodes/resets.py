"""Reset of scene and arm: by the simulated cell or by a person.

`CellReset` calls cell/reset. `OperatorReset` (hardware): a person resets the scene and brings the arm to the start
pose (the gate lets the SpaceMouse drive between episodes), then presses the start button or calls episode/reset; the
pose is checked. While an episode runs, the start button labels it a success and the stop button a failure; while a
reset is awaited, the stop button ends the goal.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any, Protocol

from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Joy

from rldg_control.episode_logic import EpisodeLogic, start_fault
from rldg_control.nodes.waiting import FOREVER_S, GoalWait, Routine
from rldg_core.errors import UserError
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_core.task import ResetConfig
from rldg_msgs.msg import EpisodeEvent
from rldg_msgs.srv import ResetCell
from rldg_ros.log import Log
from rldg_ros.parameters import parameter
from rldg_ros.reporting import Fault
from rldg_ros.vendors import ChangeFilter, PolledSubscriptions, vendor_topic

REPEAT_S = 0.5
"""Interval of the handshake request: one sent before the server has discovered this client is lost."""

REFUSED_OBJECT = "no such object"
"""Unknown object: the cell refuses a reset to it without effect."""

RESET_S = 60.0


class Reset(Protocol):
    """Brings scene and arm to the start of an episode."""

    def missing(self) -> list[str]:
        """Return one line for each missing connection."""

    async def connect(self, wait: GoalWait, timeout_s: float) -> None:
        """Wait until responses arrive. Raises UserError."""

    async def run(self, wait: GoalWait, plan: EpisodeEvent) -> int:
        """Reset; return the stamp of the first observation that counts [ns]. Raises UserError."""

    def confirm(self) -> tuple[bool, str]:
        """Confirm that scene and arm are ready; return (accepted, one line)."""


class CellReset:
    """The simulated cell resets itself."""

    def __init__(self, node: Node, routine: Routine) -> None:
        service = str(parameter(node, "reset_service", "cell/reset", "Service that resets the cell."))
        self._client, self._routine = node.create_client(ResetCell, service), routine
        self._connected = False

    def missing(self) -> list[str]:
        """Return one line if no node offers the service."""
        return [] if self._client.service_is_ready() else [f"nobody offers {self._client.srv_name}"]

    def confirm(self) -> tuple[bool, str]:
        """Refuse: the cell resets without a person."""
        return False, "no episode is waiting for its reset"

    async def connect(self, wait: GoalWait, timeout_s: float) -> None:
        """Wait for the response to a request that is refused: a real reset must not be sent twice (lock-step)."""
        if self._connected:
            return
        requests: list[Future[Any]] = []
        sent_s = -inf

        def answered() -> bool:
            nonlocal sent_s
            if monotonic() - sent_s > REPEAT_S:
                sent_s = monotonic()
                requests.append(self._call(ResetCell.Request(object=REFUSED_OBJECT)))
            return any(future.done() for future in requests)

        complaint = f"{self._client.srv_name}: no answer within {timeout_s:.0f} s"
        try:
            await wait.until(answered, timeout_s, complaint)
        finally:
            for future in requests:
                self._client.remove_pending_request(future)
        self._connected = True

    async def run(self, wait: GoalWait, plan: EpisodeEvent) -> int:
        """Call the service once."""
        name = self._client.srv_name
        future = self._call(ResetCell.Request(seed=plan.seed, object=plan.object))
        await wait.until(future.done, RESET_S, f"{name}: no answer within {RESET_S:.0f} s")
        response = future.result()
        if not response.success:
            raise UserError(f"{name}: {response.message}")
        return stamp_ns(response.stamp)

    def _call(self, request: ResetCell.Request) -> Future[Any]:
        future = self._client.call_async(request)
        future.add_done_callback(lambda _future: self._routine.check())
        return future


class OperatorReset:
    """A person resets the scene. buttons: indices on the SpaceMouse (start, stop), -1: none."""

    def __init__(
        self, node: Node, logic: EpisodeLogic, reset: ResetConfig, observer: Fault, buttons: tuple[int, int]
    ) -> None:
        self._node, self._logic, self._reset, self._observer, self._buttons = node, logic, reset, observer, buttons
        self._pressed = (False, False)
        self._awaited = self._done = self._cancelled = False
        joy_topic = str(parameter(node, "joy_topic", "spacenav/joy", "Buttons of the SpaceMouse."))
        # Only changes count, so that a driver that ends while a button is pressed has no further effect.
        PolledSubscriptions(node).add(Joy, vendor_topic(node, joy_topic), ChangeFilter(Joy, self._on_joy, lambda: None))

    def missing(self) -> list[str]:
        """Return no line: nothing is needed beyond the service."""
        return []

    async def connect(self, wait: GoalWait, timeout_s: float) -> None:
        """Do nothing: there is no connection."""

    async def run(self, wait: GoalWait, plan: EpisodeEvent) -> int:
        """Wait for the confirmation."""
        self._awaited, self._done, self._cancelled = True, False, False
        Log(self._node).info(
            f"{plan.episode_id}: reset the scene ({plan.object}), move the arm to the start pose, "
            "then press the start button or call episode/reset"
        )
        try:
            await wait.until(lambda: self._done or self._cancelled, FOREVER_S, "")
        finally:
            self._awaited = False
        if self._cancelled:
            raise UserError("ended with the stop button")
        newest = self._logic.newest_observation()
        assert newest is not None, "confirm() has checked it"
        return stamp_ns(newest.header.stamp) + 1

    def confirm(self) -> tuple[bool, str]:
        """Accept if the arm is at a start pose."""
        if not self._awaited:
            return False, "no episode is waiting for its reset"
        newest = self._logic.newest_observation()
        if newest is None:
            return False, f"no observation{self._observer.because() or ': is the observer running?'}"
        fault = start_fault(pose_array(newest.pose_base_tcp), self._reset)
        self._done = not fault
        return not fault, fault or "the episode starts"

    def _on_joy(self, message: Joy) -> None:
        was = self._pressed
        start, stop = (0 <= b < len(message.buttons) and bool(message.buttons[b]) for b in self._buttons)
        self._pressed = (start, stop)
        start, stop = start and not was[0], stop and not was[1]
        if self._logic.running and (start or stop):
            self._logic.label(success=start)
        elif start:
            Log(self._node).info(f"start button: {self.confirm()[1]}")
        elif stop and self._awaited:
            # Only while a reset is awaited: a press just after the end of an episode must not end the goal later.
            self._cancelled = True
