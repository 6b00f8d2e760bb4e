"""observer: driver messages -> `observation` at the control rate.

Parameters: task, lockstep, image_topic (one camera), pose_topic, wrench_topic, joint_topic,
gripper_joint_topic, base_frame, tcp_frame. Where the task's actions have a gripper, its joint states are needed
for an observation; elsewhere its width is NaN in lock-step and whenever no recent one is known.

Invalid input is not published; /diagnostics reports its topic, what was found and what was expected. Checked are names
of joints, frames, stamps, the limits of rldg_core.plausible, and malformed messages.
"""

from __future__ import annotations

import sys
from time import monotonic

from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Header

from rldg_control.nodes.sensor_frames import FRAMES, Frame
from rldg_control.observe import GRIPPER_STALE_S, STALE_PERIODS, Input, ObservationBuilder
from rldg_core.errors import UserError
from rldg_msgs.msg import Observation, ObserverStatus
from rldg_ros import to_msg
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import parameter, task_parameter
from rldg_ros.qos import LATCHED, STREAM
from rldg_ros.reporting import ERROR, OK, WARN, Report, Reporter
from rldg_ros.runner import run_node
from rldg_ros.vendors import vendor_topic

STATE = "franka_robot_state_broadcaster"


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
        inputs = {part: Input(topic, limit_s, is_camera=part in cameras) for part, topic in self._topics.items()}
        gripper_limit_s = max(limit_s, GRIPPER_STALE_S)
        inputs["gripper"] = Input(self._topics["gripper"], gripper_limit_s, needed=task.action.gripper)
        kinds = {"pose": PoseStamped, "wrench": WrenchStamped, "joints": JointState, "gripper": JointState}
        kinds |= dict.fromkeys(cameras, Image)
        self._published = self._refused = 0
        self._fault = ""
        self._publisher = self.create_publisher(Observation, "observation", STREAM)
        self._status = self.create_publisher(ObserverStatus, "observer_status", LATCHED)
        self._published_status = ("", "")
        self._started_s = monotonic()
        self._frames = FRAMES[pace.name](self, pace, inputs, kinds, task.period_s, self)
        self._reporter = Reporter(self, self._report)

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
