"""The node in a real process: a lock-step ring with made-up observations, swaps, failed loads, damaged weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy")
from rldg_core.files import sha256_hex  # noqa: E402
from rldg_msgs.msg import EpisodeEvent, Observation, PolicyAction, PolicyStatus, PolicyWeights, Step  # noqa: E402
from rldg_msgs.srv import ActivatePolicy, ListPolicies, LoadPolicy  # noqa: E402
from rldg_ros import qos, to_msg  # noqa: E402

DOMAIN = 51
TASK_FILE = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks" / "insertion.yaml"
PERIOD_NS = 100_000_000


class Ring:
    """The rest of the stack: one node that plays observer, episode and learner."""

    def __init__(self, context, observe) -> None:
        self.node = rclpy.create_node("ring", namespace="rldg", context=context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._observe = observe
        self.actions: list[PolicyAction] = []
        self.statuses: list[PolicyStatus] = []
        self.node.create_subscription(PolicyAction, "policy_action", self.actions.append, qos.STREAM)
        self.node.create_subscription(PolicyStatus, "policy_status", self.statuses.append, qos.LATCHED)
        self._observations = self.node.create_publisher(Observation, "observation", qos.STREAM)
        self._events = self.node.create_publisher(EpisodeEvent, "episode_event", qos.EVENTS)
        self._steps = self.node.create_publisher(Step, "step", qos.STEPS_OUT)
        self._weights = self.node.create_publisher(PolicyWeights, "policy_weights", qos.EVENTS)

    def until(self, condition, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"no: {self.statuses[-1:]}"
            self.executor.spin_once(timeout_sec=0.05)

    def connect(self) -> None:
        self.until(lambda: self.statuses and self._observations.get_subscription_count() == 1)

    def call(self, kind, name: str, **fields):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready)
        future = client.call_async(kind.Request(**fields))
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def start(self, first_stamp_ns: int) -> None:
        stamp = to_msg.time(first_stamp_ns)
        self._events.publish(
            EpisodeEvent(kind=EpisodeEvent.START, episode_id="e", instruction="insert", first_observation_stamp=stamp)
        )

    def observation(self, stamp_ns: int) -> None:
        self._observations.publish(to_msg.observation(self._observe(stamp_ns), "base"))

    def step(self, stamp_ns: int) -> None:
        self._steps.publish(Step(header=to_msg.header(stamp_ns)))

    def weights(self, data: bytes, sha256: str) -> None:
        self._weights.publish(PolicyWeights(version=1, period_steps=5, sha256=sha256, data=to_msg.octets(data)))

    def turn(self, stamp_ns: int) -> PolicyAction:
        """One observation and its answer; the Step before it follows the observation, as in the stack."""
        count = len(self.actions)
        self.observation(stamp_ns)
        self.step(stamp_ns - PERIOD_NS)
        self.until(lambda: len(self.actions) > count)
        return self.actions[-1]


@pytest.fixture
def ring(monkeypatch, observe):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    ring = Ring(context, observe)
    yield ring
    ring.executor.shutdown()  # ends a spin that stopped half way, which would keep latched publishers alive
    ring.node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def policy_node():
    """Function that starts the node with parameters; ended with its process group."""
    processes: list[subprocess.Popen[str]] = []

    def start(**parameters) -> subprocess.Popen[str]:
        arguments = [f"{k}:={v}" for k, v in {"task": TASK_FILE, **parameters}.items()]
        command = [sys.executable, "-c", "from rldg_policy.nodes.policy import main; main()", "--ros-args"]
        command += ["-r", "__ns:=/rldg", *(part for a in arguments for part in ("-p", a))]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
        process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def test_lock_step_ring_swaps_and_keeps_the_old_policy_when_a_load_fails(ring, policy_node, checkpoint):
    policy_node(lockstep=True, policy="hold")
    ring.connect()
    stamps = [k * PERIOD_NS for k in range(1, 31)]
    ring.observation(stamps[0])  # before START: must wait, not be lost
    ring.start(stamps[0])
    ring.until(lambda: ring.actions)
    for stamp in stamps[1:10]:
        assert ring.turn(stamp).policy_id == "hold"

    failed = ring.call(LoadPolicy, "policy/load", policy_id="g", backend="compact", path="/nowhere", activate=True)
    assert not failed.success and "/nowhere/config.json" in failed.message and "\n" not in failed.message
    unknown = ring.call(LoadPolicy, "policy/load", policy_id="g", backend="octopus")
    assert not unknown.success and "expected one of" in unknown.message
    assert ring.turn(stamps[10]).policy_id == "hold"
    ring.until(lambda: "octopus" in ring.statuses[-1].last_error and ring.statuses[-1].active_policy == "hold")

    loaded = ring.call(LoadPolicy, "policy/load", policy_id="g", backend="compact", path=str(checkpoint))
    assert loaded.success and loaded.info.version == 7 and not loaded.info.active
    assert ring.turn(stamps[11]).policy_id == "hold"
    assert not ring.call(ActivatePolicy, "policy/activate", policy_id="x").success
    assert ring.call(ActivatePolicy, "policy/activate", policy_id="g").success
    for stamp in stamps[12:]:
        assert ring.turn(stamp).policy_id == "g"
    listed = ring.call(ListPolicies, "policy/list")
    assert [(p.policy_id, p.active) for p in listed.policies] == [("hold", False), ("g", True)]
    assert "scripted" in listed.backends
    answered = [a.header.stamp.sec * 10**9 + a.header.stamp.nanosec for a in ring.actions]
    assert answered == stamps
    ring.until(lambda: ring.statuses[-1].ticks == len(stamps))
    assert ring.statuses[-1].missed_ticks == 0 and ring.statuses[-1].swaps == 2


def test_damaged_weights_are_refused_and_reported(ring, policy_node):
    policy_node(lockstep=True, live_weights=True)
    ring.connect()
    ring.weights(b"abc", sha256_hex(b"abd"))
    ring.until(lambda: "sha256 does not match" in ring.statuses[-1].last_error)
    assert ring.statuses[-1].active_policy == "hold"


def test_a_bad_initial_policy_ends_the_node_with_one_line(policy_node):
    process = policy_node(policy="octopus")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "unknown policy back-end 'octopus'" in errors and "Traceback" not in errors
