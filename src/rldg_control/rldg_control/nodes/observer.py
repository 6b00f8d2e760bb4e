"""observer: driver messages -> `observation` at the control rate.

Parameters: task, task_dirs, lockstep, image_topic (one camera), pose_topic, wrench_topic, joint_topic,
gripper_joint_topic, base_frame, tcp_frame, joint_names, finger_names, and the QoS that drivers offer (pose_qos,
wrench_qos, joint_qos, gripper_joint_qos, image_qos). Where the task's actions have a gripper, its joint states are
needed for an observation; elsewhere its width is NaN in lock-step and whenever no recent one is known.

Invalid input is not published; /diagnostics reports its topic, what was found and what was expected. Checked are names
of joints, frames, stamps, the limits of rldg_core.plausible, and malformed messages.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from time import monotonic

from rclpy.node import Node
from std_msgs.msg import Header

from rldg_control.nodes.sensor_frames import FRAMES, Frame
from rldg_control.observe import GRIPPER_STALE_S, STALE_PERIODS, Input, ObservationBuilder
from rldg_core.errors import UserError
from rldg_core.joints import ARM_JOINTS, FINGERS
from rldg_msgs.msg import Observation, ObserverStatus
from rldg_ros import to_msg
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import default_robot, parameter, task_parameter
from rldg_ros.qos import LATCHED, STREAM, VENDOR_QOS
from rldg_ros.reporting import ERROR, OK, WARN, Report, Reporter
from rldg_ros.runner import run_node
from rldg_ros.vendors import vendor_topic

STARTING_S = 20.0
"""Time after the start in which missing drivers are not a fault: cameras and simulators start in seconds."""


class ObserverNode(Node):
    """The observer; see the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("observer")
        task = task_parameter(self)
        pace = pace_parameter(self)
        self._base_frame = str(parameter(self, "base_frame", "base", "Frame of the poses in `observation`."))
        cameras = dict(task.cameras)
        if len(cameras) == 1:
            ((name, camera),) = cameras.items()
            default_topic = vendor_topic(self, camera.topic)
            image_topic = parameter(self, "image_topic", default_topic, "Colour image of the task's only camera.")
            topic = vendor_topic(self, str(image_topic))
            cameras = {name: camera.model_copy(update={"topic": topic})}
        self._cameras = tuple(cameras)
        robot = default_robot()
        offered = robot.topics
        topics = {
            "pose": parameter(self, "pose_topic", offered.pose.topic, "Measured pose of the tcp in base."),
            "wrench": parameter(self, "wrench_topic", offered.wrench.topic, "External wrench in the tcp frame."),
            "joints": parameter(self, "joint_topic", offered.joints.topic, "Joint states of the arm."),
            "gripper": parameter(self, "gripper_joint_topic", robot.finger_topic, "Joint states of the fingers."),
            **{name: vendor_topic(self, camera.topic) for name, camera in cameras.items()},
        }
        self._topics = {part: vendor_topic(self, str(topic)) for part, topic in topics.items()}
        tcp_frame = parameter(
            self, "tcp_frame", robot.frames.tcp, "Frame of the wrench, with or without a prefix such as arm_."
        )
        self._builder = ObservationBuilder(
            cameras,
            task.period_ns,
            self._topics,
            self._base_frame,
            str(tcp_frame),
            self._names("joint_names", ARM_JOINTS, "Joints of the arm, from the base; empty: <any prefix>joint1 to 7."),
            self._names("finger_names", FINGERS, "Joints of the fingers; empty: <any prefix>finger_joint1 and 2."),
        )
        limit_s = STALE_PERIODS * task.period_s
        qos = self._offered_qos()
        inputs = {
            part: Input(topic, limit_s, is_camera=part in cameras, qos=qos[part])
            for part, topic in self._topics.items()
        }
        gripper_limit_s = max(limit_s, GRIPPER_STALE_S)
        inputs["gripper"] = replace(inputs["gripper"], limit_s=gripper_limit_s, needed=task.action.gripper)
        self._published = self._refused = 0
        self._fault = ""
        self._publisher = self.create_publisher(Observation, "observation", STREAM)
        self._status = self.create_publisher(ObserverStatus, "observer_status", LATCHED)
        self._published_status = ("", "")
        self._started_s = monotonic()
        self._frames = FRAMES[pace.name](self, pace, inputs, task.period_s, self)
        self._reporter = Reporter(self, self._report)

    def _names(self, name: str, count: int, description: str) -> list[str]:
        names = [one for one in parameter(self, name, [""], description) if one]
        if len(set(names)) not in (0, count) or len(names) != len(set(names)):
            raise UserError(f"parameter {name}: expected {count} different names, or none, got {names}")
        return names

    def _offered_qos(self) -> dict[str, str]:
        """Part -> what its driver offers. A subscriber that asks for more hears nothing."""

        def qos(name: str, default: str, what: str) -> str:
            description = f"QoS that the driver offers: {what}."
            return str(parameter(self, name, default, description, choices=tuple(VENDOR_QOS)))

        images = qos("image_qos", "reliable", "images of all cameras")
        return {
            "pose": qos("pose_qos", "best_effort", "pose"),
            "wrench": qos("wrench_qos", "best_effort", "wrench"),
            "joints": qos("joint_qos", "best_effort", "joint states"),
            "gripper": qos("gripper_joint_qos", "best_effort", "finger positions"),
            **dict.fromkeys(self._cameras, images),
        }

    def take(self, frame: Frame) -> None:
        """Publish an observation, or keep the reason why the frame cannot be used."""
        images = {name: frame[name] for name in self._cameras}
        try:
            value = self._builder.build(images, frame["pose"], frame["wrench"], frame["joints"], frame.get("gripper"))
        except UserError as error:
            self.refuse(str(error), late_start=False)
            return
        image_frames = [image.header.frame_id for image in images.values()]
        self._publisher.publish(to_msg.observation(value, self._base_frame, image_frames))
        self._published += 1
        self._set_fault("")
        if self._published == 1:
            self._reporter.publish()

    def refuse(self, fault: str, late_start: bool) -> None:
        """Keep the reason why this tick has no observation."""
        if late_start and self._starting:
            return
        self._refused += not late_start
        self._set_fault(fault)

    @property
    def _starting(self) -> bool:
        return not self._published and not self._refused and monotonic() - self._started_s < STARTING_S

    def _set_fault(self, fault: str) -> None:
        changed, self._fault = bool(fault) != bool(self._fault), fault
        if changed:
            self._reporter.publish()

    def _publish_status(self, fault: str, missing: str) -> None:
        """Publish the status when it has changed."""
        if (fault, missing) != self._published_status:
            self._published_status = (fault, missing)
            stamp = self.get_clock().now().to_msg()
            self._status.publish(ObserverStatus(header=Header(stamp=stamp), fault=fault, missing=missing))

    def _report(self) -> Report:
        # Inputs that the first observation waits for.
        missing = [] if self._published else self._frames.missing()
        self._publish_status(self._fault, "" if self._fault else ", ".join(missing))
        values = {
            "published": str(self._published),
            "refused": str(self._refused),
            "late_ticks": str(self._frames.late),
        }
        if self._fault:
            return Report(ERROR, self._fault, values)
        if not self._published:
            message = "waiting for the drivers" if self._starting else f"waiting for {', '.join(missing)}"
            return Report(OK if self._starting else WARN, message, {**values, "missing": ", ".join(missing)})
        silent = self._frames.silent()
        return Report(OK, "observing", {**values, **({"without": "; ".join(silent)} if silent else {})})


def main() -> None:
    """Run the node."""
    sys.exit(run_node(ObserverNode))
