"""observer: what the drivers publish -> `observation` at the control rate.

Parameters: task, lockstep, image_topic (one camera), pose_topic, wrench_topic, joint_topic,
gripper_joint_topic, base_frame, tcp_frame. Where the task's actions have a gripper, its joint states are needed
for an observation; elsewhere its width is NaN in lock-step and whenever no recent one is known.

What contradicts is not published as an observation, but reported in /diagnostics with topic, what was found and what
was expected: names of joints, frames, stamps, numbers that cannot be (rldg_core.plausible), malformed messages.
"""

from __future__ import annotations

import sys
from functools import partial
from time import monotonic
from typing import Any

from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from rldg_control.nodes.reporting import ERROR, OK, WARN, Report, Reporter, steady_timer
from rldg_control.observe import (
    GRIPPER_STALE_S,
    STALE_PERIODS,
    FrameJoiner,
    Input,
    NewestInputs,
    ObservationBuilder,
    check_stamp,
    of_topic,
)
from rldg_core.errors import UserError
from rldg_core.from_msg import stamp_ns
from rldg_msgs.msg import Observation, ObserverStatus
from rldg_ros import to_msg
from rldg_ros.parameters import lockstep_parameter, parameter, task_parameter
from rldg_ros.qos import LATCHED, STREAM, VENDOR_IMAGE, VENDOR_STATE
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import decode, refusals, subscribe
from rldg_ros.vendors import vendor_topic

STATE = "franka_robot_state_broadcaster"


STARTING_S = 20.0
"""So long after the start, drivers that do not publish yet are no fault: cameras and simulators need seconds."""


class Observer(Node):
    """See the module's text."""

    def __init__(self) -> None:
        super().__init__("observer")
        task = task_parameter(self)
        self._lockstep = lockstep_parameter(self)
        self._base_frame = str(parameter(self, "base_frame", "base", "Frame of the poses in `observation`."))
        cameras = dict(task.cameras)
        if len(cameras) == 1:
            ((name, camera),) = cameras.items()
            default_topic = vendor_topic(self, camera.topic)
            image_topic = parameter(self, "image_topic", default_topic, "Colour image of the task's only camera.")
            topic = vendor_topic(self, str(image_topic))
            cameras = {name: camera.model_copy(update={"topic": topic})}
        self._cameras = tuple(cameras)
        topics = {
            "pose": parameter(self, "pose_topic", f"{STATE}/current_pose", "Measured pose of the tcp in base."),
            "wrench": parameter(
                self,
                "wrench_topic",
                f"{STATE}/external_wrench_in_stiffness_frame",
                "External wrench in the tcp frame.",
            ),
            "joints": parameter(self, "joint_topic", f"{STATE}/measured_joint_states", "Joint states of the arm."),
            "gripper": parameter(
                self, "gripper_joint_topic", "franka_gripper/joint_states", "Joint states of the fingers."
            ),
            **{name: vendor_topic(self, camera.topic) for name, camera in cameras.items()},
        }
        self._topics = {part: vendor_topic(self, str(topic)) for part, topic in topics.items()}
        tcp_frame = parameter(
            self, "tcp_frame", "hand_tcp", "Frame of the wrench, with or without a prefix such as fr3_."
        )
        self._builder = ObservationBuilder(cameras, task.period_ns, self._topics, self._base_frame, str(tcp_frame))
        limit_s = STALE_PERIODS * task.period_s
        self._inputs = {part: Input(topic, limit_s) for part, topic in self._topics.items()}
        self._inputs["gripper"] = Input(
            self._topics["gripper"], max(limit_s, GRIPPER_STALE_S), needed=task.action.gripper
        )
        frame_parts = tuple(part for part, one in self._inputs.items() if one.needed)
        self._joiner, self._newest = FrameJoiner(frame_parts), NewestInputs(self._inputs)
        self._types = {"pose": PoseStamped, "wrench": WrenchStamped, "joints": JointState, "gripper": JointState}
        self._types |= dict.fromkeys(self._cameras, Image)
        self._due, self._last_image = False, b""
        self._published = self._refused = self._late = 0
        self._fault = ""
        self._publisher = self.create_publisher(Observation, "observation", STREAM)
        self._status = self.create_publisher(ObserverStatus, "observer_status", LATCHED)
        self._shown = ("", "")
        for part in frame_parts if self._lockstep else self._inputs:
            # Serialised: nothing is decoded that no tick needs (state may come at 1 kHz, images at 30 Hz).
            receive = partial(self._on_frame_part if self._lockstep else self._on_newest, part)
            vendor = VENDOR_IMAGE if part in self._cameras else VENDOR_STATE
            # One lost part of a frame would stop a lock-step run; there the cell publishes reliably.
            qos = STREAM if self._lockstep else vendor
            subscribe(self, self._types[part], self._topics[part], receive, qos, raw=True)
        if not self._lockstep:
            steady_timer(self, task.period_s, self._on_tick)
        self._started_s = monotonic()
        self._reporter = Reporter(self, self._report)

    def _on_frame_part(self, part: str, data: bytes) -> None:
        message = decode(data, self._types[part])
        frame = self._joiner.add(part, stamp_ns(message.header.stamp), message)
        if frame:
            self._publish(frame)

    def _on_newest(self, part: str, data: bytes) -> None:
        self._newest.add(part, data, monotonic())
        if self._due and part in self._cameras:
            # The tick found no new image: do not make this one wait for the next tick.
            self._observe()

    def _on_tick(self) -> None:
        self._late += self._due
        self._due = True
        self._observe()

    def _observe(self) -> None:
        stale = self._newest.stale(monotonic())
        if stale:
            if not self._starting:
                self._set_fault("; ".join(stale))
            return
        fresh = self._newest.fresh(monotonic())
        if fresh[self._cameras[0]] is self._last_image:
            return
        self._due, self._last_image = False, fresh[self._cameras[0]]
        frame = {}
        for part, data in fresh.items():
            try:
                frame[part] = decode(data, self._types[part])
            except ValueError as error:
                self._newest.discard(part)
                refusals(self).add(self._topics[part], str(error))
                self._set_fault(refusals(self).newest)
                return
        self._publish(frame)

    def _publish(self, frame: dict[str, Any]) -> None:
        images = {name: frame[name] for name in self._cameras}
        try:
            if not self._lockstep:
                self._check_stamps(frame)
            value = self._builder.build(images, frame["pose"], frame["wrench"], frame["joints"], frame.get("gripper"))
        except UserError as error:
            self._refused += 1
            self._set_fault(str(error))
            return
        image_frames = [image.header.frame_id for image in images.values()]
        self._publisher.publish(to_msg.observation(value, self._base_frame, image_frames))
        self._published += 1
        self._set_fault("")
        if self._published == 1:
            self._reporter.publish()

    def _check_stamps(self, frame: dict[str, Any]) -> None:
        now_ns = self.get_clock().now().nanoseconds
        for part, message in frame.items():
            with of_topic(self._topics[part]):
                check_stamp(stamp_ns(message.header.stamp), now_ns, self._inputs[part].limit_s)

    def _missing(self) -> list[str]:
        """What it waits for before the first observation."""
        if self._published:
            return []
        return self._joiner.missing() if self._lockstep else self._newest.stale(monotonic())

    @property
    def _starting(self) -> bool:
        return not self._published and not self._refused and monotonic() - self._started_s < STARTING_S

    def _set_fault(self, fault: str) -> None:
        changed, self._fault = bool(fault) != bool(self._fault), fault
        if changed:
            self._reporter.publish()

    def _show(self, fault: str, missing: str) -> None:
        """Publish the status when it has changed."""
        if (fault, missing) != self._shown:
            self._shown = (fault, missing)
            stamp = self.get_clock().now().to_msg()
            self._status.publish(ObserverStatus(header=Header(stamp=stamp), fault=fault, missing=missing))

    def _report(self) -> Report:
        missing = self._missing()
        self._show(self._fault, "" if self._fault else ", ".join(missing))
        values = {"published": str(self._published), "refused": str(self._refused), "late_ticks": str(self._late)}
        if self._fault:
            return Report(ERROR, self._fault, values)
        if not self._published:
            message = "waiting for the drivers" if self._starting else f"waiting for {', '.join(missing)}"
            return Report(OK if self._starting else WARN, message, {**values, "missing": ", ".join(missing)})
        silent = [] if self._lockstep else self._newest.stale(monotonic(), needed=False)
        return Report(OK, "observing", {**values, **({"without": "; ".join(silent)} if silent else {})})


def main() -> None:
    """Console script."""
    sys.exit(run_node(Observer))
