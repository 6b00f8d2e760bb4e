"""operator (simulation only): the scripted operator as `teleop_action`, source SCRIPTED.

Parameters: task, task_dirs, lockstep, seed, mode (demonstrate, intervene, off) and every other field of
rldg_sim.operators.config.OperatorConfig. It answers each observation of a running episode exactly once, with `active`
true or false, as soon as it has the ground truth of the same stamp (`cell/truth`).
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from rclpy.node import Node

from rldg_core.errors import UserError
from rldg_core.from_msg import pose_array, stamp_ns, wrench_array
from rldg_core.seeding import derive_seed
from rldg_msgs.msg import EpisodeEvent, Observation, TeleopAction
from rldg_ros import to_msg
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.qos import EVENTS, STREAM
from rldg_ros.reporting import OK, Report, Reporter
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.pairing import StampPairs
from rldg_sim.scene import make_operator


class OperatorNode(Node):
    """See the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("operator")
        self._task = task_parameter(self)
        pace_parameter(self)  # declared like everywhere; the node does the same in both paces
        self._seed = int(parameter(self, "seed", 0, "Seed of the operator, mixed with the episode's.", low=0))
        config = self._config()
        self._mode = config.mode
        self._operator = make_operator(config, self._task)
        self._answered = self._intervened = 0
        self._pairs: StampPairs[Observation, PoseArray] = StampPairs()
        self._start_ns = 0
        self._publisher = self.create_publisher(TeleopAction, "teleop_action", STREAM)
        subscribe(self, Observation, "observation", self._on_observation, STREAM)
        subscribe(self, PoseArray, "cell/truth", self._on_truth, STREAM)
        subscribe(self, EpisodeEvent, "episode_event", self._on_event, EVENTS)
        Reporter(self, self._report)

    def _config(self) -> OperatorConfig:
        values: dict[str, Any] = {}
        for field in fields(OperatorConfig):
            default = getattr(OperatorConfig(), field.name)
            shown = list(default) if isinstance(default, tuple) else default
            value = parameter(self, field.name, shown, **field.metadata)
            values[field.name] = tuple(value) if isinstance(default, tuple) else value
        try:
            return OperatorConfig(**values)
        except ValueError as error:
            raise UserError(f"parameter {error}") from None

    def _on_event(self, message: EpisodeEvent) -> None:
        if message.kind == EpisodeEvent.START:
            start_ns = stamp_ns(message.first_observation_stamp)
            if start_ns == self._start_ns:
                return  # the transient-local topic repeated it
            self._start_ns = start_ns
            self._operator.reset(derive_seed(int(message.seed), "operator", self._seed))
            self._pairs.start(self._start_ns)
        else:
            self._pairs.stop()
        self._answer()

    def _on_observation(self, message: Observation) -> None:
        self._pairs.add_first(stamp_ns(message.header.stamp), message)
        self._answer()

    def _on_truth(self, message: PoseArray) -> None:
        self._pairs.add_second(stamp_ns(message.header.stamp), message)
        self._answer()

    def _answer(self) -> None:
        for stamp, observation, truth in self._pairs.due():
            action, active = self._operator.act(
                pose_array(observation.pose_base_tcp),
                wrench_array(observation.wrench_tcp),
                pose_array(truth.poses[0]),
                pose_array(truth.poses[1]),
                observation.gripper_width_m,
                (stamp - self._start_ns) * 1e-9,
            )
            full = np.zeros(self._task.action.dim)
            full[: len(action)] = action
            message = TeleopAction(header=to_msg.header(stamp), action=to_msg.floats(full), active=active)
            message.source = TeleopAction.SCRIPTED
            self._publisher.publish(message)
            self._answered, self._intervened = self._answered + 1, self._intervened + active

    def _report(self) -> Report:
        values = {"mode": self._mode, "answered": str(self._answered), "active": str(self._intervened)}
        return Report(OK, f"scripted operator: {self._mode}", values)


def main() -> None:
    """Console script."""
    sys.exit(run_node(OperatorNode))
