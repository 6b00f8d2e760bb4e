"""cell: the simulated cell with the drivers' topics.

Parameters: task, task_dirs, lockstep, seed (real time: of the first scene), day (see rldg_sim.cell), image_topic (of
the first camera; others as the task says), pose_topic, wrench_topic, joint_topic, gripper_joint_topic, target_topic,
gripper_command_topic, scene_topic (third-person view, rgb8; empty: off), base_frame, tcp_frame, camera_frame,
joint_names, finger_names, first_stamp_ns (lock-step: where the clock of a resumed run continues), reward_topic
(default: `reward` where the task takes its reward from the ground truth, else `cell/ground_truth_reward`). Defaults are
those of the robot profile `simulated`. Service: cell/reset (ResetCell). Publishes ground truth on the reward topic and,
for the scripted operator and evaluation only, on `cell/truth`: poses of the object in the goal's and the tcp's frame.
Beside the image, for those who listen: `camera_info` and `tf` (camera_topics).

Lock-step: nothing happens before the first reset; then one control period per target whose stamp equals the last
frame's (where the task has a gripper: per target and `gripper_width` of that stamp, whichever comes first), and
/clock. A reset moves the clock on by two periods, which tells the observer that the jump of the pose was no motion.
Real time: physics follows the wall clock, state at 100 Hz, images at 30 Hz. As crisp_controllers does, the cell keeps
the last target for ever and ignores targets while more than one node publishes them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
from geometry_msgs.msg import PoseArray, PoseStamped, WrenchStamped
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64

from rldg_core.errors import UserError, quoted
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_msgs.msg import Reward
from rldg_msgs.srv import ResetCell
from rldg_ros import to_msg
from rldg_ros.pace import pace_parameter
from rldg_ros.parameters import default_robot, parameter, task_parameter
from rldg_ros.qos import STREAM, TARGET, VENDOR_IMAGE, VENDOR_STATE
from rldg_ros.reporting import OK, WARN, Report, Reporter
from rldg_ros.runner import run_node
from rldg_ros.subscriptions import subscribe
from rldg_ros.vendors import vendor_topic
from rldg_sim.gl import no_gl_error

try:
    from rldg_sim.cell import Cell, SensorFrame
    from rldg_sim.nodes.camera_topics import CameraFrames, CameraTopics, image_message
    from rldg_sim.pacing import RULES, Sample
except (ImportError, AttributeError, OSError, RuntimeError) as error:  # mujoco opens OpenGL when it is imported
    print(f"cell: {no_gl_error(error)}", file=sys.stderr)
    raise SystemExit(2) from None

STATE_PERIOD_S = 0.01
SCENE_SIZE_PX = (480, 360)


class CellNode(Node):
    """See the docstring of the module."""

    def __init__(self) -> None:
        super().__init__("cell")
        self._task = task_parameter(self)
        pace = pace_parameter(self)
        robot = default_robot()
        self._base_frame = str(parameter(self, "base_frame", robot.frames.base, "Frame of poses and wrenches."))
        self._tcp_frame = str(parameter(self, "tcp_frame", robot.frames.tcp, "Frame of the wrench and of the camera."))
        self._joints = self._names("joint_names", robot.joints, "Joints of the arm, from the base.")
        self._fingers = self._names("finger_names", robot.finger_names, "Joints of the two fingers.")
        frame = "Optical frame of the first camera's image; others: <camera>_color_optical_frame."
        first_frame = str(parameter(self, "camera_frame", "camera_color_optical_frame", frame))
        day = int(parameter(self, "day", 0, "Seed of what holds for a run (scene.realism of the task).", low=0))
        self._cell = Cell(self._task, render=False, day=day)
        self._cell.images()  # no usable OpenGL is known now, not at the first frame
        seed = int(parameter(self, "seed", 0, "Seed of the scene that is shown before the first reset.", low=0))
        start = "Simulated time of the start [ns], of a resumed run."
        first_stamp_ns = int(parameter(self, "first_stamp_ns", 0, start, low=0))
        self._rules = RULES[pace.name](self._cell, first_stamp_ns, lambda: int(self.get_clock().now().nanoseconds))
        self._pace_name = pace.name
        self._ignored_targets = 0

        def topic(name: str, default: str, description: str) -> str:
            return str(parameter(self, name, default, description))

        def vendor(name: str, default: str, description: str) -> str:
            return vendor_topic(self, topic(name, default, description))

        make = self.create_publisher
        state, image = pace.vendor_qos(VENDOR_STATE), pace.vendor_qos(VENDOR_IMAGE)
        first = next(iter(self._task.cameras))
        first_topic = vendor("image_topic", self._task.cameras[first].topic, "Colour image of the first camera.")
        self._cameras: dict[str, CameraTopics] = {}
        for name, camera in self._task.cameras.items():
            image_topic = first_topic if name == first else vendor_topic(self, camera.topic)
            optical = first_frame if name == first else f"{name}_color_optical_frame"
            frames = CameraFrames(self._base_frame, self._tcp_frame if camera.mount is None else "", optical)
            self._cameras[name] = CameraTopics(self, image_topic, image, frames)
        pose_topic = vendor("pose_topic", robot.topics.pose.topic, "Measured pose of the tcp in the base frame.")
        self._pose_out = make(PoseStamped, pose_topic, state)
        wrench_topic = vendor("wrench_topic", robot.topics.wrench.topic, "External wrench.")
        self._wrench_out = make(WrenchStamped, wrench_topic, state)
        joint_topic = vendor("joint_topic", robot.topics.joints.topic, "Joint states of the arm.")
        self._joints_out = make(JointState, joint_topic, state)
        finger_topic = vendor("gripper_joint_topic", robot.finger_topic, "Joint states of the fingers.")
        self._gripper_out = make(JointState, finger_topic, state)
        scene_topic = topic("scene_topic", "", "Image of the scene camera; empty: off.")
        self._scene_out = make(Image, scene_topic, image) if scene_topic else None
        rewarded = self._task.reward.source == "ground_truth"
        default_topic = "reward" if rewarded else "cell/ground_truth_reward"
        reward_topic = topic("reward_topic", default_topic, "Ground truth of success; the default depends on the task.")
        self._reward_out = make(Reward, reward_topic, STREAM)
        self._truth_out = make(PoseArray, "cell/truth", STREAM)
        self.create_service(ResetCell, "cell/reset", self._on_reset)
        self._target_topic = vendor("target_topic", "target_pose", "Cartesian target of the controller.")
        subscribe(self, PoseStamped, self._target_topic, self._on_target, pace.vendor_qos(TARGET))
        gripper_topic = vendor("gripper_command_topic", "gripper_width_command", "Width to command [m].")
        if self._rules.stamped_widths:
            subscribe(self, JointState, "gripper_width", self._on_width, STREAM)
        else:
            subscribe(self, Float64, gripper_topic, self._on_gripper, TARGET)
        self._clock_out = make(Clock, "/clock", STREAM) if self._rules.publishes_clock else None
        self._publish(self._rules.start(seed))
        pace.watch(self, STATE_PERIOD_S, lambda: self._publish(self._rules.tick()))
        self.get_logger().info(f"{self._task.name}: {pace.name}")
        Reporter(self, self._report, log_changes=False)

    def _names(self, name: str, default: Sequence[str], description: str) -> list[str]:
        names = [str(one) for one in parameter(self, name, list(default), description)]
        if len(names) != len(default) or len(set(names)) != len(names):
            raise UserError(f"parameter {name}: expected {len(default)} different names, got {quoted(names)}")
        return names

    # --- in ---------------------------------------------------------------------------------------------

    def _on_reset(self, request: ResetCell.Request, response: ResetCell.Response) -> ResetCell.Response:
        try:
            sample = self._rules.reset(int(request.seed), str(request.object))
        except UserError as error:
            response.success, response.message = False, str(error)
            return response
        self._publish(sample)
        response.success, response.stamp = True, to_msg.time(sample.stamp_ns)
        return response

    def _on_target(self, message: PoseStamped) -> None:
        target = pose_array(message.pose)
        expected = self._rules.expects(stamp_ns(message.header.stamp))
        if expected and self._commands_alone() and np.all(np.isfinite(target)):
            self._publish(self._rules.take_target(target))
            return
        self._ignored_targets += 1
        if not self._commands_alone():
            self.get_logger().warning(self._shared_topic(), throttle_duration_sec=1.0)

    def _commands_alone(self) -> bool:
        return bool(self.count_publishers(self._target_topic) <= 1)

    def _shared_topic(self) -> str:
        return f"{self._target_topic} has more than one publisher: targets are ignored"

    def _on_gripper(self, message: Float64) -> None:
        if not self._task.action.gripper:
            self.get_logger().info("the object is held firmly: gripper commands have no effect", once=True)
        elif not np.isfinite(message.data):
            self.get_logger().warning("gripper command is not a number: ignored", throttle_duration_sec=1.0)
        else:
            self._publish(self._rules.take_width(message.data))

    def _on_width(self, message: JointState) -> None:
        """Take a width whose stamp says which frame's action it belongs to."""
        if self._task.action.gripper and self._rules.expects(stamp_ns(message.header.stamp)):
            if not np.isfinite(message.position[0]):
                raise ValueError(f"position: {message.position[0]}, expected a finite width [m]")
            self._publish(self._rules.take_width(message.position[0]))

    # --- out --------------------------------------------------------------------------------------------

    def _publish(self, sample: Sample | None) -> None:
        """Publish what the drivers would, all with one stamp."""
        if sample is None:
            return
        frame, at_ns = sample.frame, sample.stamp_ns
        if self._clock_out is not None:
            self._clock_out.publish(Clock(clock=to_msg.time(at_ns)))
        head = to_msg.header(at_ns, self._base_frame)
        self._pose_out.publish(to_msg.pose_stamped(frame.pose_base_tcp, at_ns, self._base_frame))
        at_tcp = to_msg.header(at_ns, self._tcp_frame)
        self._wrench_out.publish(WrenchStamped(header=at_tcp, wrench=to_msg.wrench(frame.wrench_tcp)))
        joints = JointState(header=head, name=self._joints, position=to_msg.doubles(frame.joint_positions))
        joints.velocity = to_msg.doubles(frame.joint_velocities)
        self._joints_out.publish(joints)
        half = frame.gripper_width_m / 2
        self._gripper_out.publish(JointState(header=head, name=self._fingers, position=[half, half]))
        if sample.with_images:
            self._publish_images(frame, at_ns)

    def _publish_images(self, frame: SensorFrame, at_ns: int) -> None:
        poses = [to_msg.pose(frame.object_to_goal), to_msg.pose(frame.object_to_tcp)]
        self._truth_out.publish(PoseArray(header=to_msg.header(at_ns, "goal"), poses=poses))
        for name, pixels in self._cell.images().items():
            view = partial(self._cell.camera_view, name)
            self._cameras[name].publish(at_ns, pixels, view, frame.pose_base_tcp)
        reward = Reward(header=to_msg.header(at_ns), success=frame.success, failure=frame.failure)
        reward.probability, reward.source = float(frame.success), "ground_truth"
        self._reward_out.publish(reward)
        if self._scene_out is not None and self._rules.scene_due():
            self._scene_out.publish(image_message(at_ns, "scene", self._cell.render_scene(*SCENE_SIZE_PX)))

    def _report(self) -> Report:
        values = {
            "pace": self._pace_name,
            "object": self._cell.object_name,
            "ignored_targets": str(self._ignored_targets),
        }
        if not self._commands_alone():
            return Report(WARN, self._shared_topic(), values)
        return Report(OK, f"{self._task.name}: {self._pace_name}", values)


def main() -> None:
    """Console script."""
    sys.exit(run_node(CellNode, on_stop=lambda node: node._cell.close()))
