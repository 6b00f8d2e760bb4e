"""gate: the only publisher of target poses. Lifecycle node around rldg_control.gate.

Parameters: task, task_dirs, lockstep, target_topic, base_frame, wait_for_policy (the policy is the primary source;
else teleoperation), wait_for_operator (lock-step: an operator answers every observation, too),
teleop_without_episode (a person may position the arm between episodes), controller and description_topic (the
frame that the controller moves must be the measured one: latched until that is known). Services: gate/hold, gate/stop.
A stop sends the measured pose once and then nothing. It does not replace the emergency stop of the robot.
"""

from __future__ import annotations

import sys
from time import monotonic

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from rldg_control.gate.logic import GateLogic
from rldg_control.gate.state import Cause, Command, GateConfig, Phase
from rldg_control.nodes.frame_check import FrameCheck
from rldg_control.pace.rules import RULES
from rldg_core.errors import one_line
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_core.types import Source
from rldg_msgs.msg import (
    EpisodeEvent,
    ExecutedAction,
    GateStatus,
    Observation,
    ObserverStatus,
    PolicyAction,
    Step,
    TeleopAction,
)
from rldg_msgs.srv import Hold
from rldg_ros import to_msg
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.qos import EVENTS, LAST_STEPS, LATCHED, STREAM, TARGET
from rldg_ros.reporting import ERROR, OK, WARN, Report, Reporter, steady_timer, unpublished
from rldg_ros.runner import autostart, run_node
from rldg_ros.subscriptions import subscribe
from rldg_ros.vendors import vendor_topic

PUBLISHER_CHECK_S = 0.5
TELEOP_STALE_S = 1.0
"""Maximum age of teleoperation input: a gate that restarts receives old messages from the transient-local topic."""
PHASES = {Phase.IDLE: GateStatus.IDLE, Phase.RUNNING: GateStatus.RUNNING, Phase.LATCHED: GateStatus.LATCHED}
CAUSES = {
    Cause.REQUEST: GateStatus.REQUEST,
    Cause.OBSERVATION: GateStatus.OBSERVATION,
    Cause.ACTION: GateStatus.ACTION,
    Cause.PUBLISHER: GateStatus.PUBLISHER,
    Cause.FRAME: GateStatus.FRAME,
}
LAST_TARGET_S = 0.5
"""How long the node waits at its end until the controller has received the last pose."""


class GateNode(LifecycleNode):
    """The gate; see the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("gate")
        task = task_parameter(self)
        self._pace = pace_parameter(self)
        self._base_frame = str(parameter(self, "base_frame", "base", "Frame of the target pose."))
        target_topic = parameter(self, "target_topic", "target_pose", "Cartesian target of the controller.")
        self._topic = vendor_topic(self, str(target_topic))
        self._config = GateConfig(
            action=task.action,
            box=task.box,
            period_s=task.period_s,
            wait_for_policy=bool(
                parameter(self, "wait_for_policy", True, "A policy acts; in lock-step each tick waits for it.")
            ),
            wait_for_operator=bool(
                parameter(self, "wait_for_operator", False, "In lock-step, each tick waits for the scripted operator.")
            ),
            teleop_without_episode=bool(
                parameter(self, "teleop_without_episode", True, "The SpaceMouse moves the arm between episodes, too.")
            ),
        )
        controller = "Cartesian controller whose end_effector_frame must be the measured frame; empty: not checked."
        self._controller = str(parameter(self, "controller", "", controller))
        description = "URDF of the robot, for that check."
        self._description_topic = str(parameter(self, "description_topic", "robot_description", description))
        self._frame_check: FrameCheck | None = None
        self._logic = GateLogic(self._config, RULES[self._pace.name].gate)
        self._stale_teleop = 0
        self._active = False
        self._published_status: tuple[int, int, str] | None = None

    # --- lifecycle ----------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Create publishers, subscriptions, services and timers; no target is published before activation."""
        target_qos = self._pace.vendor_qos(TARGET)
        self._target = self.create_lifecycle_publisher(PoseStamped, self._topic, target_qos)
        self._executed = self.create_lifecycle_publisher(ExecutedAction, "executed_action", STREAM)
        self._status = self.create_publisher(GateStatus, "gate_status", LATCHED)
        self._gate_inputs = [
            subscribe(self, EpisodeEvent, "episode_event", self._on_event, EVENTS),
            subscribe(self, Observation, "observation", self._on_observation, STREAM),
            subscribe(self, ObserverStatus, "observer_status", self._on_observer, LATCHED),
            subscribe(self, TeleopAction, "teleop_action", self._on_teleop, STREAM),
        ]
        if self._config.wait_for_policy:
            self._gate_inputs.append(subscribe(self, PolicyAction, "policy_action", self._on_policy, STREAM))
        if self._logic.needs_steps:
            self._gate_inputs.append(subscribe(self, Step, "step", self._on_step, LAST_STEPS))
        if self._controller:
            self._frame_check = FrameCheck(self, self._controller, self._description_topic)
        self._gate_services = [
            self.create_service(Hold, "gate/hold", self._on_hold),
            self.create_service(Trigger, "gate/stop", self._on_stop_service),
        ]
        self._gate_timers = [
            steady_timer(self, PUBLISHER_CHECK_S, self._check_publishers),
            *self._pace.watch(self, self._config.period_s / 4, self._on_time),
        ]
        self._reporter = Reporter(self, self._report)
        self._publish_status()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start with a new GateLogic."""
        result = super().on_activate(state)
        self._logic, self._active = GateLogic(self._config, RULES[self._pace.name].gate), True
        self._check_publishers()
        self._publish_status()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Send the measured pose once, then nothing."""
        self.stop("gate deactivated")
        self._active = False
        self._publish_status()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo on_configure."""
        for timer in self._gate_timers:
            self.destroy_timer(timer)
        for service in self._gate_services:
            self.destroy_service(service)
        for subscription in self._gate_inputs:
            self.destroy_subscription(subscription)
        if self._frame_check:
            self._frame_check.close(self)
        self._reporter.close()
        self.destroy_lifecycle_publisher(self._target)
        self.destroy_lifecycle_publisher(self._executed)
        self.destroy_publisher(self._status)
        self._published_status = None
        return TransitionCallbackReturn.SUCCESS

    def stop(self, reason: str) -> None:
        """Latch, and wait until the last pose was delivered."""
        if self._active:
            self._send(self._logic.hold(reason, monotonic()))
            self._target.wait_for_all_acked(Duration(seconds=LAST_TARGET_S))

    # --- inputs -------------------------------------------------------------------------------------

    def _on_observation(self, message: Observation) -> None:
        if not self._active:
            return
        stamp = stamp_ns(message.header.stamp)
        age_s = self._pace.age_s(self.get_clock(), stamp)
        pose_base_tcp = pose_array(message.pose_base_tcp)
        if self._frame_check:
            fault = self._frame_check.on_observation(pose_base_tcp, np.asarray(message.joint_positions))
            self._send(self._logic.on_frame(fault, monotonic()))
        self._send(self._logic.on_observation(stamp, pose_base_tcp, monotonic(), age_s))

    def _on_observer(self, message: ObserverStatus) -> None:
        fault = message.fault or message.missing
        self._logic.on_observer(f"observer: {fault}" if fault else "")

    def _on_policy(self, message: PolicyAction) -> None:
        if self._active:
            stamp = stamp_ns(message.header.stamp)
            self._send(
                self._logic.on_policy_action(
                    stamp, message.action, message.policy_id, message.policy_version, monotonic(), message.hold
                )
            )

    def _on_teleop(self, message: TeleopAction) -> None:
        if self._active:
            source = Source.SCRIPTED if message.source == TeleopAction.SCRIPTED else Source.HUMAN
            stamp = stamp_ns(message.header.stamp)
            age_s = self._pace.age_s(self.get_clock(), stamp)
            if age_s > TELEOP_STALE_S:
                self._stale_teleop += 1
                return
            self._send(self._logic.on_teleop(stamp, message.action, message.active, source, monotonic()))

    def _on_step(self, message: Step) -> None:
        if self._active:
            ended = message.terminated or message.truncated or message.is_last
            self._send(self._logic.on_step(message.episode_id, message.index, ended, monotonic()))

    def _on_event(self, message: EpisodeEvent) -> None:
        if not self._active:
            return
        if message.kind == EpisodeEvent.END:
            self._logic.on_end(message.episode_id)
            self._publish_status()
        elif message.kind != EpisodeEvent.START:
            raise ValueError(f"kind: {message.kind}, expected {EpisodeEvent.START} or {EpisodeEvent.END}")
        else:
            self._check_publishers()
            first = stamp_ns(message.first_observation_stamp)
            self._send(self._logic.on_start(message.episode_id, first, monotonic()))

    def _on_time(self) -> None:
        if self._active:
            self._send(self._logic.on_time(monotonic()))

    def _check_publishers(self) -> None:
        if not self._active:
            return
        infos = self.get_publishers_info_by_topic(self._topic)
        names = [f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos]
        if self.get_fully_qualified_name() in names:
            names.remove(self.get_fully_qualified_name())
        self._send(self._logic.on_publishers(tuple(names), self._topic, monotonic()))
        if self._frame_check:
            self._send(self._logic.on_frame(self._frame_check.fault, monotonic()))

    def _on_hold(self, request: Hold.Request, response: Hold.Response) -> Hold.Response:
        now_s = monotonic()
        if not self._active:
            response.success, response.message = False, "gate is not active"
        elif request.hold:
            self._send(self._logic.hold(one_line(request.reason) or "hold requested", now_s))
            response.success, response.message = True, f"latched: {self._logic.reason}"
        else:
            response.success, response.message = self._logic.release(now_s)
            self._send(None)
        return response

    def _on_stop_service(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._send(self._logic.hold("stop requested", monotonic()) if self._active else None)
        response.success, response.message = self._active, f"{self._logic.phase.value}: {self._logic.reason}"
        return response

    # --- outputs ------------------------------------------------------------------------------------

    def _send(self, command: Command | None) -> None:
        """Publish a command, target first, then the gate's status where it changed."""
        if command:
            report, target = command.executed, command.target_base_tcp
            self._target.publish(to_msg.pose_stamped(target, report.observation_stamp_ns, self._base_frame))
            sent_ns = self._pace.sent_ns(self.get_clock(), report.observation_stamp_ns)
            self._executed.publish(to_msg.executed_action(report, sent_ns, target))
        self._publish_status()

    def _publish_status(self) -> None:
        """Publish the status when it has changed."""
        logic = self._logic
        phase = PHASES[logic.phase] if self._active else GateStatus.INACTIVE
        cause = CAUSES[logic.cause] if logic.phase is Phase.LATCHED else GateStatus.NONE
        now = (phase, cause, one_line(logic.reason))
        if now == self._published_status:
            return
        before, self._published_status = self._published_status, now
        header = Header(stamp=self.get_clock().now().to_msg())
        self._status.publish(GateStatus(header=header, phase=now[0], cause=now[1], reason=now[2]))
        if before and before[2] != now[2]:
            self._reporter.publish()

    def _report(self) -> Report:
        values = {**self._logic.summary(), "stale_teleop": str(self._stale_teleop)}
        if not self._active:
            return Report(OK, "inactive", values)
        if self._logic.phase is Phase.LATCHED:
            return Report(ERROR, f"latched: {self._logic.reason}", values)
        missing = unpublished(self, ["observation"])
        if not self._target.get_subscription_count():
            missing.append(f"nobody listens to {self._topic}")
        return Report(WARN, f"waiting: {'; '.join(missing)}", values) if missing else Report(OK, "ready", values)


def make_gate() -> GateNode:
    """The node, brought up if `autostart`."""
    node = GateNode()
    autostart(node)
    return node


def main() -> None:
    """Run the node."""
    sys.exit(run_node(make_gate, on_stop=lambda node: node.stop("gate stopped")))
