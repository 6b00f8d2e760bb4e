"""How the scene and the arm get to their start: by the simulated cell, or by a person.

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
from rldg_ros.vendors import Changes, PolledTopics, vendor_topic

REPEAT_S = 0.5
"""A request that is sent before its server has discovered this client is lost: it is repeated after this time."""

REFUSED_OBJECT = "no such object"
"""A reset to it is refused and moves nothing."""

RESET_S = 60.0


class Reset(Protocol):
    """Brings scene and arm to the start of an episode."""

    def missing(self) -> list[str]:
        """One line for each connection that is not there."""

    async def connect(self, wait: GoalWait, timeout_s: float) -> None:
        """Make sure that answers arrive. Raises UserError."""

    async def run(self, wait: GoalWait, plan: EpisodeEvent) -> int:
        """Reset; return the stamp from which on observations count [ns]. Raises UserError."""

    def confirm(self) -> tuple[bool, str]:
        """A person says that scene and arm are ready: (accepted, one line)."""


class CellReset:
    """The simulated cell resets itself."""

    def __init__(self, node: Node, routine: Routine) -> None:
        service = str(parameter(node, "reset_service", "cell/reset", "Service that resets the cell."))
        self._client, self._routine = node.create_client(ResetCell, service), routine
        self._connected = False

    def missing(self) -> list[str]:
        """The service, if nobody offers it."""
        return [] if self._client.service_is_ready() else [f"nobody offers {self._client.srv_name}"]

    def confirm(self) -> tuple[bool, str]:
        """Refuse: the cell needs nobody."""
        return False, "no episode is waiting for its reset"

    async def connect(self, wait: GoalWait, timeout_s: float) -> None:
        """Wait until the cell answers a request that it refuses: a reset must not be sent twice (lock-step)."""
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
        future.add_done_callback(lambda _future: self._routine.look())
        return future


class OperatorReset:
    """A person resets; buttons of the SpaceMouse (start, stop), -1: none."""

    def __init__(
        self, node: Node, logic: EpisodeLogic, reset: ResetConfig, observer: Fault, buttons: tuple[int, int]
    ) -> None:
        self._node, self._logic, self._reset, self._observer, self._buttons = node, logic, reset, observer, buttons
        self._pressed = (False, False)
        self._awaited = self._done = self._gave_up = False
        joy_topic = str(parameter(node, "joy_topic", "spacenav/joy", "Buttons of the SpaceMouse."))
        # Presses and releases are acted on once each, so that a driver that ends holds nothing down.
        PolledTopics(node).add(Joy, vendor_topic(node, joy_topic), Changes(Joy, self._on_joy, lambda: None))

    def missing(self) -> list[str]:
        """Nothing: the service is enough."""
        return []

    async def connect(self, wait: GoalWait, timeout_s: float) -> None:
        """Nothing to connect."""

    async def run(self, wait: GoalWait, plan: EpisodeEvent) -> int:
        """Wait for the confirmation."""
        self._awaited, self._done, self._gave_up = True, False, False
        Log(self._node).info(
            f"{plan.episode_id}: reset the scene ({plan.object}), move the arm to the start pose, "
            "then press the start button or call episode/reset"
        )
        try:
            await wait.until(lambda: self._done or self._gave_up, FOREVER_S, "")
        finally:
            self._awaited = False
        if self._gave_up:
            raise UserError("ended by the operator")
        newest = self._logic.newest_observation()
        assert newest is not None, "confirm() looked at it"
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
            # Only then: a press that came a moment too late for the episode would end the goal much later.
            self._gave_up = True
