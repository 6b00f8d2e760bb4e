"""observer: what the drivers publish -> `observation` at the control rate.

Parameters: task, lockstep, image_topic (one camera), pose_topic, wrench_topic, joint_topic,
gripper_joint_topic, base_frame. A gripper's width is NaN in lock-step unless the task's actions have a
gripper; then its joint states are part of the frame, too.
"""

from __future__ import annotations

import sys
from functools import partial
from time import monotonic
from typing import Any

from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image, JointState

from rldg_control.nodes.reporting import ERROR, OK, WARN, Report, Reporter, steady_timer, vendor_topic
from rldg_control.observe import FrameJoiner, NewestInputs, ObservationBuilder
from rldg_core.errors import UserError
from rldg_core.from_msg import stamp_ns
from rldg_msgs.msg import Observation
from rldg_ros import to_msg
from rldg_ros.parameters import lockstep_parameter, parameter, task_parameter
from rldg_ros.qos import STREAM, VENDOR_IMAGE, VENDOR_STATE
from rldg_ros.runner import run_node

STATE = "/franka_robot_state_broadcaster"


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
        self._builder = ObservationBuilder(cameras, task.period_ns)
        self._types: dict[str, type] = {"pose": PoseStamped, "wrench": WrenchStamped, "joints": JointState}
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
                self, "gripper_joint_topic", "/franka_gripper/joint_states", "Joint states of the fingers."
            ),
            **{name: vendor_topic(self, camera.topic) for name, camera in cameras.items()},
        }
        parts = ("pose", "wrench", "joints", *self._cameras)
        if self._lockstep and task.action.gripper:
            parts = (*parts, "gripper")
        self._joiner = FrameJoiner(parts)
        self._inputs = NewestInputs(parts, task.period_s)
        self._due, self._last_image = False, b""
        self._published = self._late = 0
        self._fault = ""
        self._publisher = self.create_publisher(Observation, "observation", STREAM)
        listened = parts if self._lockstep else tuple(topics)
        for part in listened:
            is_image = part in self._cameras
            self._types.setdefault(part, Image if is_image else JointState)
            # Serialised: nothing is decoded that no tick needs (state may come at 1 kHz, images at 30 Hz).
            receive = partial(self._on_frame_part if self._lockstep else self._on_newest, part)
            vendor = VENDOR_IMAGE if is_image else VENDOR_STATE
            # One lost part of a frame would stop a lock-step run; there the cell publishes reliably.
            qos = STREAM if self._lockstep else vendor
            self.create_subscription(self._types[part], str(topics[part]), receive, qos, raw=True)
        if not self._lockstep:
            steady_timer(self, task.period_s, self._on_tick)
        self._reporter = Reporter(self, self._report)

    def _decode(self, part: str, data: bytes) -> Any:
        return deserialize_message(data, self._types[part])

    def _on_frame_part(self, part: str, data: bytes) -> None:
        message = self._decode(part, data)
        frame = self._joiner.add(part, stamp_ns(message.header.stamp), message)
        if frame:
            self._publish(frame)

    def _on_newest(self, part: str, data: bytes) -> None:
        self._inputs.add(part, data, monotonic())
        if self._due and part in self._cameras:
            # The tick found no new image: do not make this one wait for the next tick.
            self._observe()

    def _on_tick(self) -> None:
        self._late += self._due
        self._due = True
        self._observe()

    def _observe(self) -> None:
        stale = self._inputs.stale(monotonic())
        if stale:
            self._set_fault("; ".join(stale))
            return
        newest = {part: data for part in self._types if (data := self._inputs.get(part)) is not None}
        if newest[self._cameras[0]] is self._last_image:
            return
        self._due, self._last_image = False, newest[self._cameras[0]]
        self._publish({part: self._decode(part, data) for part, data in newest.items()})

    def _publish(self, frame: dict[str, Any]) -> None:
        images = {name: frame[name] for name in self._cameras}
        try:
            value = self._builder.build(images, frame["pose"], frame["wrench"], frame["joints"], frame.get("gripper"))
        except UserError as error:
            self._set_fault(str(error))
            return
        self._publisher.publish(to_msg.observation(value, self._base_frame))
        self._published += 1
        self._set_fault("")

    def _set_fault(self, fault: str) -> None:
        changed, self._fault = bool(fault) != bool(self._fault), fault
        if changed:
            self._reporter.publish()

    def _report(self) -> Report:
        values = {"published": str(self._published), "late_ticks": str(self._late)}
        if self._fault:
            return Report(ERROR, self._fault, values)
        if not self._published:
            missing = self._joiner.missing() if self._lockstep else self._inputs.stale(monotonic())
            return Report(WARN, f"waiting for {', '.join(missing)}", values)
        return Report(OK, "observing", values)


def main() -> None:
    """Console script."""
    sys.exit(run_node(Observer))
