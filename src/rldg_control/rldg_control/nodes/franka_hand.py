"""franka_gripper's actions: move to open, grasp to close, one at a time (rldg_control.hand).

It polls for a cancellation at 30 Hz and then stops any running motion. The hand opens to 0.08 m.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from rldg_control.gripper_logic import GripperConfig
from rldg_control.hand import Cancel, HandConfig, HandLogic, Send
from rldg_core.errors import UserError
from rldg_ros.log import Log
from rldg_ros.parameters import parameter
from rldg_ros.reporting import steady_timer
from rldg_ros.vendors import vendor_topic

POLL_S = 0.05
"""Period at which time-outs and the server's presence are checked; answers are handled on arrival."""

SLACK_S = 5.0
"""Time that a motion may take beyond the whole stroke at the requested speed."""

STATUS = {
    GoalStatus.STATUS_SUCCEEDED: "succeeded",
    GoalStatus.STATUS_CANCELED: "cancelled",
    GoalStatus.STATUS_ABORTED: "aborted",
}


class FrankaHand:
    """Carries out HandLogic's commands with two action clients."""

    def __init__(self, node: Node, config: GripperConfig) -> None:
        try:
            # Not on PyPI; installed with franka_ros2.
            from franka_msgs.action import Grasp, Move
        except ImportError as error:
            raise UserError(
                "parameter mode: actions needs franka_msgs, which is not installed; use mode:=topic"
            ) from error
        name = str(parameter(node, "gripper_action_prefix", "franka_gripper", "Prefix of the hand's actions."))
        self._speed = float(parameter(node, "speed_m_s", 0.1, "Speed of the fingers [m/s].", low=0.001, high=0.2))
        self._force = float(parameter(node, "force_n", 20.0, "Grasping force [N].", low=0.0, high=70.0))
        self._open_m, self._node = config.open_width_m, node
        self._move_goal, self._grasp_goal = Move.Goal, Grasp.Goal
        prefix = vendor_topic(node, name)
        self._move = ActionClient(node, Move, f"{prefix}/move")
        self._grasp = ActionClient(node, Grasp, f"{prefix}/grasp")
        self._names = {self._move: f"{prefix}/move", self._grasp: f"{prefix}/grasp"}
        self._logic = HandLogic(HandConfig(motion_s=config.open_width_m / self._speed + SLACK_S))
        self._handle: Any = None
        steady_timer(node, POLL_S, self._advance)

    @property
    def fault(self) -> str:
        """Why the newest request is not carried out, or ""."""
        return self._logic.fault

    def missing(self) -> list[str]:
        """Return one line for each missing action server."""
        return [f"no action server {name}" for client, name in self._names.items() if not client.server_is_ready()]

    def command(self, width_m: float) -> None:
        """Request a width [m]; it replaces an earlier request."""
        self._logic.request(width_m)
        self._advance()

    def values(self) -> dict[str, str]:
        """Return values for diagnostics."""
        logic = self._logic
        return {"hand": logic.phase.value, "reached_width_m": str(logic.reached_m), "failures": str(logic.failures)}

    def _advance(self) -> None:
        fault = self._logic.fault
        command = self._logic.next(monotonic(), not self.missing())
        if isinstance(command, Send):
            client, goal = self._goal(command.width_m)
            client.send_goal_async(goal).add_done_callback(partial(self._on_accepted, command.number))
        elif isinstance(command, Cancel):
            self._handle.cancel_goal_async().add_done_callback(partial(self._on_cancel_answered, command.number))
        if self._logic.fault and self._logic.fault != fault:
            Log(self._node).warning(f"hand: {self._logic.fault}")

    def _goal(self, width_m: float) -> tuple[ActionClient, Any]:
        if width_m >= self._open_m:
            return self._move, self._move_goal(width=width_m, speed=self._speed)
        goal = self._grasp_goal(width=width_m, speed=self._speed, force=self._force)
        # A grasp succeeds at any width: the epsilons span the whole stroke.
        goal.epsilon.inner = goal.epsilon.outer = self._open_m
        return self._grasp, goal

    def _on_accepted(self, number: int, future: Future) -> None:
        handle = future.result()
        accepted = bool(handle and handle.accepted)
        self._logic.on_accepted(number, accepted, monotonic())
        if accepted:
            self._handle = handle
            handle.get_result_async().add_done_callback(partial(self._on_result, number))
        self._advance()

    def _on_cancel_answered(self, number: int, _future: Future) -> None:
        self._logic.on_cancel_answered(number, monotonic())
        self._advance()

    def _on_result(self, number: int, future: Future) -> None:
        response = future.result()
        status, result = response.status, response.result
        error = None
        if status != GoalStatus.STATUS_SUCCEEDED or not result.success:
            error = " ".join(result.error.split())[:200] or f"the motion {STATUS.get(status, 'ended unknown')}"
        self._logic.on_result(number, error, monotonic())
        self._advance()
