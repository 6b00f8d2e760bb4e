"""The nodes cell and operator as processes over DDS: lock-step protocol, real time, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseArray, PoseStamped, WrenchStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from rldg_core.frames import pose_at, rotation_of
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_core.seeding import derive_seed
from rldg_core.task import find_task
from rldg_msgs.msg import EpisodeEvent, Observation, Reward, TeleopAction
from rldg_msgs.srv import ResetCell
from rldg_ros import to_msg
from rldg_ros.qos import EVENTS, STREAM, TARGET, VENDOR_IMAGE, VENDOR_STATE
from rldg_sim.cell import Cell
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.scene import make_operator

DOMAIN = 10

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"
STATE = "/franka_robot_state_broadcaster"
PERIOD_NS = 100_000_000
LISTENED = {
    "clock": (Clock, "/clock", STREAM),
    "pose": (PoseStamped, f"{STATE}/current_pose", VENDOR_STATE),
    "wrench": (WrenchStamped, f"{STATE}/external_wrench_in_stiffness_frame", VENDOR_STATE),
    "joints": (JointState, f"{STATE}/measured_joint_states", VENDOR_STATE),
    "gripper": (JointState, "/franka_gripper/joint_states", VENDOR_STATE),
    "image": (Image, "/camera/camera/color/image_raw", VENDOR_IMAGE),
    "camera_info": (CameraInfo, "/camera/camera/color/camera_info", VENDOR_IMAGE),
    "scene": (Image, "/scene", VENDOR_IMAGE),
    "reward": (Reward, "reward", STREAM),
    "truth": (PoseArray, "cell/truth", STREAM),
    "teleop": (TeleopAction, "teleop_action", STREAM),
}
SENSORS = ("pose", "wrench", "joints", "gripper", "image", "reward", "truth")


class Rig:
    """One ROS domain: this process subscribes to everything, and the nodes under test have their own processes."""

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("bench", namespace="/rldg", context=self.context, use_global_arguments=False)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {name: [] for name in LISTENED}
        for name, (kind, topic, qos) in LISTENED.items():
            self.node.create_subscription(kind, topic, self.heard[name].append, qos)
        self.target_out = self.node.create_publisher(PoseStamped, "/target_pose", STREAM)
        self.reset_client = self.node.create_client(ResetCell, "cell/reset")
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, name: str, task: str = "insertion", **parameters: Any) -> subprocess.Popen[str]:
        arguments = ["--ros-args", "-r", "__ns:=/rldg", "-p", f"task:={TASKS / task}.yaml"]
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={str(value).lower() if isinstance(value, bool) else value}"]
        process = subprocess.Popen(
            [sys.executable, "-c", f"from rldg_sim.nodes.{name} import main; main()", *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(self._domain)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> None:
        deadline_s = monotonic() + timeout_s
        while not condition():
            assert monotonic() < deadline_s, f"timed out waiting for {what}"
            self.executor.spin_once(timeout_sec=0.01)

    def until_heard(self, name: str, count: int) -> None:
        self.until(lambda: len(self.heard[name]) >= count, f"{count} of {name}")

    def connect(self) -> None:
        """Wait until the cell's topics and service are connected, so that no message is lost."""
        self.until(self.reset_client.service_is_ready, "cell/reset")
        self.until(lambda: self.node.count_subscribers("/target_pose") == 1, "the cell's subscription")
        for name in SENSORS:
            topic = self.node.resolve_topic_name(LISTENED[name][1])
            self.until(lambda t=topic: self.node.count_publishers(t) == 1, topic)

    def reset(self, seed: int, object_name: str = "") -> Any:
        future = self.reset_client.call_async(ResetCell.Request(seed=seed, object=object_name))
        self.until(future.done, "the answer of cell/reset")
        return future.result()

    def send_target(self, pose: Any, stamp: int) -> None:
        self.target_out.publish(to_msg.pose_stamped(pose, stamp, "base"))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=10)
        self.executor.shutdown()  # ends an interrupted spin, which would keep transient-local publishers alive
        self.node.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def make_rig() -> Iterator[Callable[[int], Rig]]:
    """Return make_rig(domain) -> Rig, closed at the end of the test."""
    rigs: list[Rig] = []

    def make(domain: int) -> Rig:
        rigs.append(Rig(domain))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.mark.parametrize(("task", "item"), [("insertion", "usb_a"), ("fmb_insertion", "rectangle")])
def test_lock_step_equals_the_library_frame_by_frame(make_rig: Callable[[int], Rig], task: str, item: str) -> None:
    rig = make_rig(DOMAIN)
    rig.start("cell", task, lockstep=True, use_sim_time=True)
    rig.connect()
    library = Cell(find_task(task, [TASKS]))
    expected = library.reset(11, item)
    first = rig.reset(11, item)
    assert first.success
    stamp = stamp_ns(first.stamp)
    for count in range(1, 7):
        for name in SENSORS:
            rig.until_heard(name, count)
        for name in SENSORS:
            assert stamp_ns(rig.heard[name][-1].header.stamp) == stamp
        assert stamp_ns(rig.heard["clock"][-1].clock) == stamp
        np.testing.assert_array_equal(pose_array(rig.heard["pose"][-1].pose), expected.pose_base_tcp)
        truth = [pose_array(p) for p in rig.heard["truth"][-1].poses]
        np.testing.assert_array_equal(truth, [expected.object_to_goal, expected.object_to_tcp])
        assert list(rig.heard["joints"][-1].position) == expected.joint_positions.tolist()
        assert sum(rig.heard["gripper"][-1].position) == pytest.approx(expected.gripper_width_m)
        image = rig.heard["image"][-1]
        assert (image.height, image.width, image.encoding, image.step) == (256, 256, "rgb8", 768)
        assert bytes(image.data) == expected.image.tobytes()
        assert rig.heard["reward"][-1].source == "ground_truth" and not rig.heard["reward"][-1].success
        target = pose_at(expected.pose_base_tcp, [0.002, 0, -0.01, 0, 0, 0])
        # Answers to another frame and repeated answers move nothing.
        rig.send_target(target, stamp - PERIOD_NS)
        rig.send_target(target, stamp)
        rig.send_target(target, stamp)
        expected = library.step_to(target)
        stamp += PERIOD_NS
    rig.until_heard("pose", 7)
    rig.until_heard("camera_info", 1)
    info = rig.heard["camera_info"][-1]
    assert stamp_ns(info.header.stamp) in [stamp_ns(image.header.stamp) for image in rig.heard["image"]]
    assert info.header.frame_id == rig.heard["image"][-1].header.frame_id == "camera_color_optical_frame"
    library.image()
    np.testing.assert_allclose(info.k, library.camera_view("wrist").intrinsics(info.width, info.height).ravel())
    second = rig.reset(12)
    assert stamp_ns(second.stamp) == stamp + 2 * PERIOD_NS
    refused = rig.reset(1, "hdmi2")
    assert not refused.success and "unknown object 'hdmi2'" in refused.message


def test_real_time_runs_at_the_rates_of_the_drivers_and_keeps_the_last_target(make_rig: Callable[[int], Rig]) -> None:
    rig = make_rig(DOMAIN + 1)
    rig.start("cell", scene_topic="/scene")
    rig.connect()
    rig.until_heard("scene", 1)
    assert (rig.heard["scene"][0].height, rig.heard["scene"][0].width) == (360, 480)
    rig.until_heard("pose", 1)
    start = pose_array(rig.heard["pose"][-1].pose)
    target = pose_at(start, [0, 0, -0.01, 0, 0, 0])
    rig.send_target(target, 0)
    near = lambda: np.abs(pose_array(rig.heard["pose"][-1].pose)[:3] - target[:3]).max() < 1e-3  # noqa: E731
    rig.until(near, "the target")
    # One second of sensor time, however busy this machine is: state at 100 Hz, images at 30 Hz.
    rig.until_heard("image", 30)
    images = [stamp_ns(m.header.stamp) for m in rig.heard["image"]]
    poses = [stamp_ns(m.header.stamp) for m in rig.heard["pose"]]
    assert np.median(np.diff(images)) < 80e6
    assert np.median(np.diff(poses)) < 25e6
    rig.until(lambda: stamp_ns(rig.heard["reward"][-1].header.stamp) >= images[-1], "the last reward")
    assert set(images) <= {stamp_ns(m.header.stamp) for m in rig.heard["reward"]}
    assert near(), "the arm stays at the last target"
    answer = rig.reset(5, "xlr")
    assert answer.success


def test_transforms_lead_from_base_to_camera(make_rig: Callable[[int], Rig]) -> None:
    tf2_msgs = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs comes with a ROS installation, not from PyPI")
    rig = make_rig(DOMAIN + 7)
    heard: list[Any] = []
    rig.node.create_subscription(tf2_msgs.TFMessage, "/tf", heard.append, 100)
    rig.start("cell")
    rig.until(lambda: bool(heard), "/tf")
    frames = [(t.header.frame_id, t.child_frame_id) for t in heard[-1].transforms]
    assert frames == [("base", "fr3_hand_tcp"), ("fr3_hand_tcp", "camera_color_optical_frame")]
    # The camera is mounted on the hand, about 10 cm from the tcp, and looks along its z.
    at_tcp = heard[-1].transforms[1].transform
    place = np.array([at_tcp.translation.x, at_tcp.translation.y, at_tcp.translation.z])
    assert 0.05 < np.linalg.norm(place) < 0.2
    turn = at_tcp.rotation
    sight = rotation_of([0, 0, 0, turn.x, turn.y, turn.z, turn.w]).apply([0, 0, 1])
    assert sight @ -place / np.linalg.norm(place) > 0.8


def test_targets_of_two_publishers_are_ignored(make_rig: Callable[[int], Rig]) -> None:
    rig = make_rig(DOMAIN + 2)
    cell = rig.start("cell")
    rig.connect()
    rig.until_heard("pose", 1)
    start = pose_array(rig.heard["pose"][-1].pose)
    second = rig.node.create_publisher(PoseStamped, "/target_pose", TARGET)
    rig.until(lambda: second.get_subscription_count() == 1, "the second publisher's match")
    for k in range(5):
        rig.send_target(pose_at(start, [0, 0, 0.02, 0, 0, 0]), k)
        rig.until_heard("image", len(rig.heard["image"]) + 5)
    assert np.abs(pose_array(rig.heard["pose"][-1].pose) - start).max() < 1e-3
    rig.node.destroy_publisher(second)
    rig.until(lambda: rig.node.count_publishers("/target_pose") == 1, "a single publisher")

    def moved() -> bool:
        rig.send_target(pose_at(start, [0, 0, 0.02, 0, 0, 0]), 0)
        return bool(pose_array(rig.heard["pose"][-1].pose)[2] > start[2] + 0.015)

    rig.until(moved, "the motion")
    cell.send_signal(signal.SIGINT)
    output, _ = cell.communicate(timeout=10)
    assert cell.returncode == 0 and "more than one publisher" in output


def test_missing_opengl_ends_the_node_with_one_line(make_rig: Callable[[int], Rig], tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"file_format_version": "1.0.0", "ICD": {"library_path": "libnone.so"}}')
    os.environ["__EGL_VENDOR_LIBRARY_FILENAMES"] = str(tmp_path / "none.json")
    try:
        process = make_rig(DOMAIN + 3).start("cell")
    finally:
        del os.environ["__EGL_VENDOR_LIBRARY_FILENAMES"]
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert [line for line in output.splitlines() if "Traceback" in line] == []
    assert "apt-get install libegl1 libgles2 libgl1-mesa-dri" in output.splitlines()[-1]


def observation(stamp: int, frame: Any) -> Observation:
    message = Observation(header=to_msg.header(stamp, "base"), pose_base_tcp=to_msg.pose(frame.pose_base_tcp))
    message.wrench_tcp = to_msg.wrench(frame.wrench_tcp)
    return message


@pytest.mark.parametrize("truth_first", [True, False])
def test_operator_answers_each_observation_once_in_order(make_rig: Callable[[int], Rig], truth_first: bool) -> None:
    insertion = find_task("insertion", [TASKS])
    rig = make_rig(DOMAIN + 4)
    rig.start("operator", lockstep=True, mode="demonstrate", speed=0.4, seed=3)
    observe = rig.node.create_publisher(Observation, "observation", STREAM)
    tell = rig.node.create_publisher(PoseArray, "cell/truth", STREAM)
    event = rig.node.create_publisher(EpisodeEvent, "episode_event", EVENTS)
    for publisher in (observe, event):
        rig.until(lambda p=publisher: p.get_subscription_count() == 1, "the operator")
    rig.until(lambda: tell.get_subscription_count() == 2, "the operator")
    rig.until(lambda: rig.node.count_publishers("/rldg/teleop_action") == 1, "teleop_action")
    cell = Cell(insertion, render=False)
    frame = cell.reset(1)
    twin = make_operator(OperatorConfig(speed=0.4), insertion)
    twin.reset(derive_seed(77, "operator", 3))

    def publish(stamp: int) -> None:
        poses = [to_msg.pose(frame.object_to_goal), to_msg.pose(frame.object_to_tcp)]
        truth = PoseArray(header=to_msg.header(stamp, "goal"), poses=poses)
        messages = [(tell, truth), (observe, observation(stamp, frame))]
        for publisher, message in messages if truth_first else reversed(messages):
            publisher.publish(message)

    publish(PERIOD_NS)  # before the episode: must not be answered
    start = EpisodeEvent(kind=EpisodeEvent.START, seed=77)
    start.first_observation_stamp = to_msg.time(2 * PERIOD_NS)
    event.publish(start)
    for k in range(15):
        publish((2 + k) * PERIOD_NS)
        rig.until_heard("teleop", k + 1)
        answer = rig.heard["teleop"][-1]
        expected, active = twin.act(
            frame.pose_base_tcp,
            frame.wrench_tcp,
            frame.object_to_goal,
            frame.object_to_tcp,
            0.0,
            k * PERIOD_NS * 1e-9,
        )
        assert stamp_ns(answer.header.stamp) == (2 + k) * PERIOD_NS
        assert answer.source == TeleopAction.SCRIPTED and answer.active == active
        np.testing.assert_allclose(answer.action, expected, atol=1e-6)
        frame = cell.step(expected)
    assert len(rig.heard["teleop"]) == 15


def test_bad_operator_parameter_is_refused(make_rig: Callable[[int], Rig]) -> None:
    process = make_rig(DOMAIN + 5).start("operator", mode="help")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert output.splitlines()[-1].endswith("parameter mode: expected demonstrate, intervene or off, got 'help'")
