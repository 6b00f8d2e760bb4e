"""A test bench with the vendors' topics, and real processes for the nodes under test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, WrenchStamped
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from rldg_core.frames import compose_delta, pose
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_msgs.msg import (
    EpisodeEvent,
    ExecutedAction,
    GateStatus,
    Observation,
    PolicyAction,
    Reward,
    Step,
    TeleopAction,
)
from rldg_msgs.srv import ResetCell
from rldg_ros import to_msg
from rldg_ros.qos import EVENTS, LATCHED, STEPS, STREAM, TARGET, VENDOR_IMAGE, VENDOR_STATE

STATE = "/franka_robot_state_broadcaster"
START_POSE = pose([0.5, 0.0, 0.20], [1.0, 0.0, 0.0, 0.0])
MEASURED_POSE = pose([0.51, 0.0, 0.19], [1.0, 0.0, 0.0, 0.0])
PERIOD_NS = 100_000_000
JOINTS = [f"fr3_joint{k}" for k in range(1, 8)]


def task_dict(size: int = 64, max_steps: int = 12) -> dict[str, Any]:
    gains = {"stiffness": 2000, "damping": 89, "rotational_stiffness": 150, "rotational_damping": 7}
    gains = {**gains, "error_clip_m": 0.008, "error_clip_rad": 0.02}
    return {
        "name": "bench",
        "default_object": "a",
        "objects": {"a": {"instruction": "do a"}, "b": {"instruction": "do b"}},
        "target_pose_base_tcp": [0.5, 0.0, 0.15, 1.0, 0.0, 0.0, 0.0],
        "reset": {"pose_base_tcp": [0.5, 0.0, 0.20, 1.0, 0.0, 0.0, 0.0]},
        "safety_box": {"low": [-0.05, -0.05, -0.02, -0.05, -0.05, -0.1], "high": [0.05, 0.05, 0.06, 0.05, 0.05, 0.1]},
        "cameras": {"wrist": {"topic": "camera/image", "width": size, "height": size, "image_size": size}},
        "impedance": {"compliant": gains, "precise": gains},
        "reward": {"source": "ground_truth"},
        "episode": {"max_steps": max_steps},
    }


class Bench(Node):
    """Stands for everything around the nodes under test: drivers, policy and subscribers."""

    def __init__(self, context: Context, size: int, lockstep: bool) -> None:
        super().__init__("bench", namespace="/rldg", context=context, use_global_arguments=False)
        self.pose, self.stamp, self.size = START_POSE, 0, size
        self.answers = self.lockstep = lockstep
        self.success_at: int | None = None
        self.policy: Callable[[int], list[float]] = lambda _stamp: [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
        self.frames_in_episode = self.answered = 0
        self.observations: list[Observation] = []
        self.targets: list[PoseStamped] = []
        self.executed: list[ExecutedAction] = []
        self.steps: list[Step] = []
        self.events: list[EpisodeEvent] = []
        self.teleop: list[TeleopAction] = []
        self.first_stamp: int | None = None
        self._rng = np.random.default_rng(0)
        make = self.create_publisher
        # In lock-step the cell publishes reliably, as rldg_sim does; otherwise with the vendors' QoS.
        state_qos, image_qos = (STREAM, STREAM) if lockstep else (VENDOR_STATE, VENDOR_IMAGE)
        self.pose_out = make(PoseStamped, f"{STATE}/current_pose", state_qos)
        self.wrench_out = make(WrenchStamped, f"{STATE}/external_wrench_in_stiffness_frame", state_qos)
        self.joints_out = make(JointState, f"{STATE}/measured_joint_states", state_qos)
        self.image_out = make(Image, "/camera/image", image_qos)
        self.reward_out = make(Reward, "reward", STREAM)
        self.action_out = make(PolicyAction, "policy_action", STREAM)
        self.create_service(ResetCell, "cell/reset", self._on_reset)
        listen = self.create_subscription
        listen(PoseStamped, "/target_pose", self._on_target, STREAM if lockstep else TARGET)
        listen(Observation, "observation", self._on_observation, STREAM)
        listen(ExecutedAction, "executed_action", self.executed.append, STREAM)
        listen(Step, "step", self.steps.append, STEPS)
        listen(EpisodeEvent, "episode_event", self._on_event, EVENTS)
        listen(TeleopAction, "teleop_action", self.teleop.append, STREAM)

    def publish_state(self, stamp: int, without: Container[Any] = ()) -> None:
        """`without`: names of publishers that are not created."""
        head = to_msg.header(stamp, "base")
        for publisher, message in (
            (self.pose_out, to_msg.pose_stamped(self.pose, stamp, "base")),
            (self.wrench_out, WrenchStamped(header=to_msg.header(stamp, "fr3_hand_tcp"))),
            (self.joints_out, JointState(header=head, name=JOINTS, position=[0.1] * 7)),
        ):
            if publisher not in without:
                publisher.publish(message)

    def publish_image(self, stamp: int, **changes: Any) -> None:
        pixels = (
            self._rng.integers(0, 256, (self.size // 8, self.size // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        )
        fields = {"encoding": "rgb8", "width": self.size, "height": self.size, "step": 3 * self.size}
        fields = {**fields, "data": to_msg.octets(pixels.tobytes()), **changes}
        self.image_out.publish(Image(header=to_msg.header(stamp, "camera_color_optical_frame"), **fields))

    def publish_frame(self) -> None:
        self.frames_in_episode += 1
        self.publish_state(self.stamp)
        self.publish_image(self.stamp)
        success = self.frames_in_episode - 1 == self.success_at
        self.reward_out.publish(Reward(header=to_msg.header(self.stamp), success=success, source="ground_truth"))

    def act(self, stamp: int) -> None:
        action = PolicyAction(header=to_msg.header(stamp), action=to_msg.floats(self.policy(stamp)), policy_id="test")
        self.action_out.publish(action)
        self.answered += 1

    def sources(self) -> list[int]:
        return [e.source for e in self.executed]

    def _on_reset(self, request: ResetCell.Request, response: ResetCell.Response) -> ResetCell.Response:
        if request.object == "no such object":
            response.message = "unknown object"
            return response
        self._rng = np.random.default_rng(request.seed)
        self.pose = compose_delta(START_POSE, [*self._rng.uniform(-0.02, 0.02, 3), 0, 0, 0])
        self.stamp += 2 * PERIOD_NS  # the gap tells the observer that the pose jumped without motion
        self.frames_in_episode = 0
        self.publish_frame()
        response.success, response.stamp = True, to_msg.time(self.stamp)
        return response

    def _on_target(self, message: PoseStamped) -> None:
        self.targets.append(message)
        self.pose = pose_array(message.pose)
        if self.lockstep and stamp_ns(message.header.stamp) == self.stamp:
            self.stamp += PERIOD_NS
            self.publish_frame()

    def _on_observation(self, message: Observation) -> None:
        self.observations.append(message)
        stamp = stamp_ns(message.header.stamp)
        if self.answers and self.first_stamp is not None and stamp >= self.first_stamp:
            self.act(stamp)

    def _on_event(self, message: EpisodeEvent) -> None:
        self.events.append(message)
        started = message.kind == EpisodeEvent.START
        self.first_stamp = stamp_ns(message.first_observation_stamp) if started else None
        if started and self.answers:
            for observation in self.observations:
                if stamp_ns(observation.header.stamp) >= self.first_stamp:
                    self.act(stamp_ns(observation.header.stamp))


class Statuses:
    """Records /diagnostics and `gate_status`."""

    def __init__(self, rig: Any) -> None:
        self.messages: dict[str, list[DiagnosticStatus]] = {}
        rig.bench.create_subscription(DiagnosticArray, "/diagnostics", self._on, 50)
        self.gate: list[tuple[int, int, str]] = []
        rig.bench.create_subscription(GateStatus, "gate_status", self._on_gate, LATCHED)

    def _on(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.messages.setdefault(status.name, []).append(status)

    def _on_gate(self, message: GateStatus) -> None:
        self.gate.append((message.phase, message.cause, message.reason))

    def newest(self, node: str) -> str:
        """Return the newest status of a node in /rldg, or of a full name."""
        name = node if node.startswith("/") else f"/rldg/{node}"
        return self.messages[name][-1].message if name in self.messages else ""

    def value(self, node: str, key: str, default: str = "") -> str:
        statuses = self.messages.get(f"/rldg/{node}", [])
        return {v.key: v.value for status in statuses[-1:] for v in status.values}.get(key, default)


class Inputs:
    """Publishes observations and policy actions at 10 Hz of the wall clock; measured: pose of the tcp in base."""

    def __init__(self, rig: Any) -> None:
        self.rig, self.bench = rig, rig.bench
        self.clock = Clock(clock_type=ClockType.SYSTEM_TIME)
        self.observation_out = self.bench.create_publisher(Observation, "observation", STREAM)
        self.event_out = self.bench.create_publisher(EpisodeEvent, "episode_event", EVENTS)
        self.teleop_out = self.bench.create_publisher(TeleopAction, "teleop_action", STREAM)
        self.observing = self.acting = True
        self.offset_ns = 0
        self.measured, self.joints = MEASURED_POSE, [0.0] * 7
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.timer = self.bench.create_timer(0.1, self._tick, clock=steady)
        rig.until(lambda: self.observation_out.get_subscription_count() > 1, what="a listener")

    def now_ns(self) -> int:
        return int(self.clock.now().nanoseconds) + self.offset_ns

    def _tick(self) -> None:
        if self.observing:
            stamp = self.now_ns()
            message = Observation(header=to_msg.header(stamp, "base"), pose_base_tcp=to_msg.pose(self.measured))
            message.joint_positions = to_msg.doubles(self.joints)
            self.observation_out.publish(message)
            if self.acting:
                self.bench.act(stamp)

    def start_episode(self) -> None:
        head = to_msg.time(self.now_ns())
        self.event_out.publish(EpisodeEvent(kind=EpisodeEvent.START, episode_id="e", first_observation_stamp=head))


class Sensors:
    """Publishes robot state at 100 Hz and images at 30 Hz of the wall clock."""

    def __init__(self, rig: Any) -> None:
        self.bench, self.clock = rig.bench, Clock(clock_type=ClockType.SYSTEM_TIME)
        self.state = self.images = True
        self.changes: dict[str, Any] = {}
        self.replaced: dict[Any, tuple[Any, float]] = {}  # publisher -> its replacement, late by [s]
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.bench.create_timer(0.01, self._on_state, clock=steady)
        self.bench.create_timer(1 / 30, self._on_image, clock=steady)

    def now_ns(self) -> int:
        return int(self.clock.now().nanoseconds)

    def _on_state(self) -> None:
        if self.state:
            self.bench.publish_state(self.now_ns(), without=self.replaced)
        for publisher, (message, late_s) in self.replaced.items():
            if not isinstance(message, bytes):
                message.header = to_msg.header(self.now_ns() - round(late_s * 1e9), message.header.frame_id)
            publisher.publish(message)

    def _on_image(self) -> None:
        if self.images and self.bench.image_out not in self.replaced:
            self.bench.publish_image(self.now_ns(), **self.changes)


class Rig:
    """One ROS domain: the bench in this process, nodes under test in their own processes."""

    def __init__(
        self, domain: int, folder: Path, size: int, max_steps: int, changes: dict[str, Any] | None, lockstep: bool
    ) -> None:
        self.domain, self.folder = domain, folder
        self.task = folder / "bench.yaml"
        self.task.write_text(yaml.safe_dump({**task_dict(size, max_steps), **(changes or {})}))
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.bench = Bench(self.context, size, lockstep)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.bench)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, name: str, namespace: str = "/rldg", **parameters: Any) -> subprocess.Popen[str]:
        arguments = ["--ros-args", "-r", f"__ns:={namespace}", "-p", f"task:={self.task}"]
        for key, value in parameters.items():
            arguments += ["-p", f"{key}:={str(value).lower() if isinstance(value, bool) else value}"]
        process = subprocess.Popen(
            [sys.executable, "-c", f"from rldg_control.nodes.{name} import main; main()", *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(self.domain)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def until(self, condition: Callable[[], Any], timeout_s: float = 20.0, what: str = "") -> None:
        """Spin until the condition holds; fail after the deadline."""
        deadline_s = monotonic() + timeout_s
        while not condition():
            assert monotonic() < deadline_s, f"timed out waiting for {what or condition}"
            self.executor.spin_once(timeout_sec=0.01)

    def spin_for(self, duration_s: float) -> None:
        """Spin for a while, to show that nothing happens."""
        deadline_s = monotonic() + duration_s
        while (left_s := deadline_s - monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left_s)

    def record_statuses(self) -> Statuses:
        return Statuses(self)

    def publish_inputs(self) -> Inputs:
        return Inputs(self)

    def publish_sensors(self) -> Sensors:
        return Sensors(self)

    def call(self, kind: type, name: str, request: Any) -> Any:
        client = self.bench.create_client(kind, name)
        self.until(client.service_is_ready, what=name)
        future = client.call_async(request)
        self.until(future.done, what=f"answer of {name}")
        return future.result()

    def end(self, process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str]:
        """Ask a node to end; return its exit code and output."""
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
        return process.returncode, output

    def close(self) -> None:
        """Kill the running nodes and leave the domain; a second call is harmless."""
        any_ended = any(process.poll() is not None for process in self.processes)
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=10)
        self.processes.clear()
        # Destroying our node while the middleware handles the end of another one crashed it twice, under load.
        deadline_s = monotonic() + 1.0
        while any_ended and len(self.bench.get_node_names()) > 1 and monotonic() < deadline_s:
            self.executor.spin_once(timeout_sec=0.02)
        # Ends the generator of an interrupted spin: it would keep the bench's transient-local publishers alive, and the
        # next rig of the same domain would receive the messages of this one.
        self.executor.shutdown()
        self.bench.destroy_node()
        self.context.try_shutdown()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Return make_rig(domain, size=64, max_steps=12, changes=None, lockstep=False) -> Rig, closed at the end of the
    test."""
    rigs: list[Rig] = []

    def make(
        domain: int,
        size: int = 64,
        max_steps: int = 12,
        changes: dict[str, Any] | None = None,
        lockstep: bool = False,
    ) -> Rig:
        folder = tmp_path / str(len(rigs))
        folder.mkdir()
        rigs.append(Rig(domain, folder, size, max_steps, changes, lockstep))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


_LINKS = (
    ("joint1", "revolute", "link0", "link1", "0 0 0.333", "0 0 0"),
    ("joint2", "revolute", "link1", "link2", "0 0 0", "-1.5707963267948966 0 0"),
    ("joint3", "revolute", "link2", "link3", "0 -0.316 0", "1.5707963267948966 0 0"),
    ("joint4", "revolute", "link3", "link4", "0.0825 0 0", "1.5707963267948966 0 0"),
    ("joint5", "revolute", "link4", "link5", "-0.0825 0.384 0", "-1.5707963267948966 0 0"),
    ("joint6", "revolute", "link5", "link6", "0 0 0", "1.5707963267948966 0 0"),
    ("joint7", "revolute", "link6", "link7", "0.088 0 0", "1.5707963267948966 0 0"),
    ("joint8", "fixed", "link7", "link8", "0 0 0.107", "0 0 0"),
    ("hand_joint", "fixed", "link8", "hand", "0 0 0", "0 0 -0.7853981633974483"),
    ("hand_tcp_joint", "fixed", "hand", "hand_tcp", "0 0 0.1034", "0 0 0"),
    ("finger_joint1", "prismatic", "hand", "leftfinger", "0 0 0.0584", "0 0 0"),
)

_URDF = (
    '<robot name="fr3"><link name="base"/>'
    '<joint name="base_joint" type="fixed"><parent link="base"/><child link="fr3_link0"/></joint>'
    + "".join(
        f'<joint name="fr3_{name}" type="{kind}"><origin xyz="{xyz}" rpy="{rpy}"/>'
        f'<parent link="fr3_{parent}"/><child link="fr3_{child}"/><axis xyz="0 0 1"/></joint>'
        for name, kind, parent, child, xyz, rpy in _LINKS
    )
    + "</robot>"
)


@dataclass(frozen=True)
class Fr3:
    """Kinematics of an FR3 with its hand, and one posture of it.

    ready_pose: O_T_EE of libfranka at the joint positions `ready_q` [rad] with the hand's end effector; the tool
    points down.
    """

    urdf: str = _URDF
    ready_q: tuple[float, ...] = (0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4)
    ready_pose: tuple[float, ...] = (0.30689, 0.0, 0.48688, 1.0, 0.0, 0.0, 0.0)


@pytest.fixture
def fr3() -> Fr3:
    return Fr3()
