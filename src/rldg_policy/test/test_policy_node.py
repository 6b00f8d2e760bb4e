"""The policy node as a process: a lock-step loop with synthetic observations, swaps, failed loads, damaged weights."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import json_numpy
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402

from rldg_core.files import sha256_hex  # noqa: E402
from rldg_core.image_codec import encode_jpeg  # noqa: E402
from rldg_msgs.msg import EpisodeEvent, Observation, PolicyAction, PolicyStatus, PolicyWeights, Step  # noqa: E402
from rldg_msgs.srv import ActivatePolicy, ListPolicies, LoadPolicy  # noqa: E402
from rldg_ros import qos, to_msg  # noqa: E402

DOMAIN = 51
REAL_TIME_DOMAIN = 186
TASK_FILE = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks" / "insertion.yaml"
PERIOD_NS = 100_000_000


SLOW_BACKEND = """
from threading import Event
import numpy as np
from rldg_core.policy import PolicySpec

class Slow:
    def __init__(self, path, task, explore=False):
        self.spec = PolicySpec((), 0, 1, task.action.dim, 8, 4.0, statistics_key="slow")
    def warm_up(self): ...
    def reset(self, instruction, seed): ...
    def act(self, observation):
        Event().wait(0.3)  # the time of an inference
        return np.full((8, self.spec.action_dim), 0.5, dtype=np.float32)
    def close(self): ...

class Broken(Slow):
    def act(self, observation):
        raise RuntimeError("no memory")
"""


@pytest.fixture
def slow_backend(tmp_path: Path) -> Path:
    """Install a distribution that registers the back-end `slow`: 0.3 s for each chunk of 8."""
    info = tmp_path / "site" / "slow_backend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rldg.policies]\nslow = slow_backend:Slow\nbroken = slow_backend:Broken\n")
    (info.parent / "slow_backend.py").write_text(SLOW_BACKEND)
    return info.parent


class Ring:
    """The rest of the stack: one node that stands for observer, episode node and learner."""

    def __init__(self, context, observe) -> None:
        self.context = context
        self.node = rclpy.create_node("ring", namespace="rldg", context=context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._observe = observe
        self.actions: list[PolicyAction] = []
        self.statuses: list[PolicyStatus] = []
        self.node.create_subscription(PolicyAction, "policy_action", self.actions.append, qos.STREAM)
        self.node.create_subscription(PolicyStatus, "policy_status", self.statuses.append, qos.LATCHED)
        self.reports: list[DiagnosticStatus] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: self.reports.extend(m.status), 10)
        self._observations = self.node.create_publisher(Observation, "observation", qos.STREAM)
        self._events = self.node.create_publisher(EpisodeEvent, "episode_event", qos.EVENTS)
        self._steps = self.node.create_publisher(Step, "step", qos.STEPS_OUT)
        self._weights = self.node.create_publisher(PolicyWeights, "policy_weights", qos.EVENTS)

    def until(self, condition, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"timed out; last status: {self.statuses[-1:]}"
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

    def end(self) -> None:
        self._events.publish(EpisodeEvent(kind=EpisodeEvent.END, episode_id="e"))

    def observation(self, stamp_ns: int) -> None:
        self._observations.publish(to_msg.observation(self._observe(stamp_ns), "base"))

    def step(self, stamp_ns: int) -> None:
        self._steps.publish(Step(header=to_msg.header(stamp_ns)))

    def weights(self, data: bytes, sha256: str) -> None:
        self._weights.publish(PolicyWeights(version=1, period_steps=5, sha256=sha256, data=to_msg.octets(data)))

    def turn(self, stamp_ns: int) -> PolicyAction:
        """Publish one observation and wait for its answer; the previous Step follows the observation, as in the
        stack."""
        count = len(self.actions)
        self.observation(stamp_ns)
        self.step(stamp_ns - PERIOD_NS)
        self.until(lambda: len(self.actions) > count)
        return self.actions[-1]


@contextmanager
def ring_in(domain: int, monkeypatch, observe):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    ring = Ring(context, observe)
    yield ring
    ring.executor.shutdown()  # ends an interrupted spin, which would keep transient-local publishers alive
    ring.node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def ring(monkeypatch, observe):
    with ring_in(DOMAIN, monkeypatch, observe) as ring:
        yield ring


@pytest.fixture
def real_time_ring(monkeypatch, observe):
    with ring_in(REAL_TIME_DOMAIN, monkeypatch, observe) as ring:
        yield ring


@pytest.fixture
def policy_node():
    """Return a function that starts the node with parameters; its process group is killed at the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(**parameters) -> subprocess.Popen[str]:
        arguments = [f"{k}:={v}" for k, v in {"task": TASK_FILE, **parameters}.items()]
        command = [sys.executable, "-c", "from rldg_policy.nodes.policy import main; main()", "--ros-args"]
        command += ["-r", "__ns:=/rldg", *(part for a in arguments for part in ("-p", a))]
        environment = {"ROS_DOMAIN_ID": str(DOMAIN), **os.environ}
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


def test_lock_step_loop_swaps_policies_and_keeps_the_old_one_when_a_load_fails(ring, policy_node, checkpoint):
    policy_node(lockstep=True, policy="hold")
    ring.connect()
    stamps = [k * PERIOD_NS for k in range(1, 31)]
    ring.observation(stamps[0])  # before START: must wait and not be lost
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
    ring.until(lambda: ring.reports and ring.reports[-1].message == "policy 'g' is active")
    values = {value.key: value.value for value in ring.reports[-1].values}
    assert ring.reports[-1].name == "/rldg/policy" and values["active_policy"] == "g"
    assert "unknown policy 'x'" in values["last_error"]


def test_failing_inference_is_an_error_in_diagnostics(real_time_ring, policy_node, slow_backend, monkeypatch):
    ring = real_time_ring
    monkeypatch.setenv("PYTHONPATH", f"{slow_backend}:{os.environ.get('PYTHONPATH', '')}")
    policy_node(policy="broken")
    ring.connect()
    stamp_ns = time.time_ns()
    ring.start(stamp_ns)
    ring.observation(stamp_ns)
    ring.until(lambda: ring.reports and ring.reports[-1].level == DiagnosticStatus.ERROR)
    assert "no memory" in ring.reports[-1].message and "\n" not in ring.reports[-1].message


def test_damaged_weights_are_refused_and_reported(ring, policy_node):
    policy_node(lockstep=True, live_weights=True)
    ring.connect()
    ring.weights(b"abc", sha256_hex(b"abd"))
    ring.until(lambda: "sha256 does not match" in ring.statuses[-1].last_error)
    assert ring.statuses[-1].active_policy == "hold"


def test_bad_initial_policy_ends_the_node_with_one_line(policy_node):
    process = policy_node(policy="octopus")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "unknown policy back-end 'octopus'" in errors and "Traceback" not in errors


def stamp_of(action: PolicyAction) -> int:
    return action.header.stamp.sec * 10**9 + action.header.stamp.nanosec


def test_hundred_swaps_in_real_time_with_a_slow_policy_miss_no_tick(
    real_time_ring, policy_node, slow_backend, monkeypatch
):
    """Swap once per tick at 10 Hz.

    A slow policy may leave ticks without an action, which are held; none is missed, and none is answered by a policy
    that was swapped away before its observation.
    """
    ring = real_time_ring
    monkeypatch.setenv("PYTHONPATH", f"{slow_backend}:{os.environ.get('PYTHONPATH', '')}")
    policy_node(policy="hold", watchdog_s=100.0, preload="['compact']")
    ring.connect()
    for name in ("slow", "scripted"):
        assert ring.call(LoadPolicy, "policy/load", policy_id=name, backend=name).success
    listed = {p.policy_id: p for p in ring.call(ListPolicies, "policy/list").policies}
    assert (listed["slow"].horizon, listed["slow"].window, listed["slow"].statistics_key) == (8, 1, "slow")
    services = {n: ring.node.create_client(k, n) for n, k in SERVICES.items()}
    ring.until(lambda: all(service.service_is_ready() for service in services.values()))
    names, rng, swaps, active = ["hold", "slow", "scripted"], np.random.default_rng(0), 0, "hold"
    sent, failed, swap, strays, acknowledged_ns = [], [], None, [], 0
    period_s, begun_s = PERIOD_NS * 1e-9, time.monotonic()
    while swaps < 100 or not swap.done() or not all(f.done() for f in failed):
        if time.monotonic() >= begun_s + len(sent) * period_s:
            sent.append(time.time_ns())
            if len(sent) == 1:
                ring.start(sent[0])
            ring.observation(sent[-1])
            swap_at_s = time.monotonic() + float(rng.uniform(0.0, 0.9)) * period_s
        # The first time, the slow policy stays until its first answer; with a swap at every tick it would never answer.
        stays = active == "slow" and all(action.policy_id != "slow" for action in ring.actions)
        if swaps < 100 and time.monotonic() >= swap_at_s and not stays and (swap is None or swap.done()):
            active, acknowledged_ns, swap_at_s = str(rng.choice([n for n in names if n != active])), None, np.inf
            swap, swaps = services["policy/activate"].call_async(ActivatePolicy.Request(policy_id=active)), swaps + 1
            if swaps % 10 == 0:
                bad = LoadPolicy.Request(policy_id="bad", backend="compact", path="/nowhere", activate=True)
                failed.append(services["policy/load"].call_async(bad))
        count = len(ring.actions)
        ring.executor.spin_once(timeout_sec=0.005)
        if swap and swap.done() and acknowledged_ns is None:
            acknowledged_ns = time.time_ns()
        for action in ring.actions[count:]:
            if acknowledged_ns is not None and stamp_of(action) > acknowledged_ns and action.policy_id != active:
                strays.append(action)
        assert time.monotonic() < begun_s + 60
    ring.until(lambda: len(ring.actions) == len(sent))
    assert [stamp_of(a) for a in ring.actions] == sent and not strays
    assert not any(f.result().success for f in failed)
    ring.until(lambda: ring.statuses[-1].ticks == len(sent))
    status = ring.statuses[-1]
    assert status.missed_ticks == 0 and status.swaps == 101 and status.dry_ticks == sum(a.hold for a in ring.actions)
    assert all(not any(a.action) for a in ring.actions if a.hold) and {a.policy_id for a in ring.actions} == set(names)


SERVICES = {"policy/activate": ActivatePolicy, "policy/load": LoadPolicy}


def test_act_answers_between_episodes(real_time_ring, policy_node, checkpoint, observe):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    policy_node(policy="compact", checkpoint=checkpoint, http_port=port)
    real_time_ring.connect()

    def ask() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        data = json_numpy.dumps({"image": np.zeros((256, 256, 3), dtype=np.uint8), "instruction": "insert it"})
        connection.request("POST", "/act", data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode()

    status, text = ask()
    assert status == 200 and json_numpy.loads(text).shape == (7,)
    stamp = time.time_ns()
    real_time_ring.start(stamp)
    real_time_ring.observation(stamp)
    real_time_ring.until(lambda: real_time_ring.actions)
    status, text = ask()
    assert status == 409 and "an episode is running" in json.loads(text)["error"]
    real_time_ring.end()
    deadline_s = time.monotonic() + 20
    while ask()[0] != 200:
        assert time.monotonic() < deadline_s


def test_http_and_lock_step_exclude_each_other(policy_node):
    process = policy_node(lockstep=True, http_port=8000)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "parameter http_port: lock-step" in errors


HOSTILE = """
import socket, sys, threading
port = int(sys.argv[1])
HEAD = b"POST /act HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Type: application/json\\r\\nContent-Length: "
counts, pause = {}, threading.Event()

def ask(data):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        line = client.makefile("rb").readline().split()
        status = line[1].decode() if len(line) > 1 else "none"
        counts[status] = counts.get(status, 0) + 1

def forever(make):
    while True:
        try:
            ask(make())
        except OSError:
            counts["closed"] = counts.get("closed", 0) + 1
            pause.wait(0.01)  # tries a hundred times a second

def large():
    return HEAD + b"19800000\\r\\n\\r\\n" + b"{" + b" " * 2_000_000

def deep():
    body = b"[" * 200_000
    return HEAD + str(len(body)).encode() + b"\\r\\n\\r\\n" + body

def wide():
    body = b"[" + b"1," * 100_000 + b"1]"
    return HEAD + str(len(body)).encode() + b"\\r\\n\\r\\n" + body

def slow():
    return HEAD + b"900\\r\\n\\r\\n{"

for make, many in ((large, 2), (deep, 2), (wide, 2), (slow, 12)):
    for _ in range(many):
        threading.Thread(target=forever, args=(make,), daemon=True).start()
print("begun", flush=True)
sys.stdin.readline()
print(sorted(counts), flush=True)
"""


def test_hostile_clients_delay_no_tick(real_time_ring, policy_node):
    """Send large, deeply nested and slow bodies on every connection in real time: every tick is answered in time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ring = real_time_ring
    policy_node(policy="scripted", http_port=port)
    ring.connect()
    command = [sys.executable, "-c", HOSTILE, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdout.readline() == "begun\n"
        first_ns = time.time_ns()
        ring.start(first_ns)
        latencies_s = []
        for tick in range(50):
            due_ns = first_ns + tick * PERIOD_NS
            ring.until(lambda: time.time_ns() >= due_ns)  # noqa: B023
            ring.observation(due_ns)
            ring.until(lambda: len(ring.actions) > tick)  # noqa: B023
            latencies_s.append((time.time_ns() - due_ns) * 1e-9)
        print("begun", file=clients.stdin, flush=True)
        statuses = clients.stdout.readline()
    ring.until(lambda: ring.statuses[-1].ticks == 50)
    status = ring.statuses[-1]
    print(f"median {np.median(latencies_s) * 1e3:.1f} ms, longest {max(latencies_s) * 1e3:.1f} ms; answers {statuses}")
    assert status.missed_ticks == status.dry_ticks == 0 and not any(action.hold for action in ring.actions)
    assert "413" in statuses and "503" in statuses and "200" not in statuses


def test_implausible_observations_are_counted_and_the_node_continues(real_time_ring, policy_node):
    ring = real_time_ring
    policy_node(policy="hold")
    ring.connect()
    stamp_ns = time.time_ns()
    ring.start(stamp_ns)

    def spoiled(change) -> Observation:
        message = to_msg.observation(ring._observe(stamp_ns), "base")
        change(message)
        return message

    def twice(message) -> None:
        message.camera_names, message.images = ["wrist", "wrist"], [message.images[0]] * 2

    small = encode_jpeg(np.zeros((64, 64, 3), np.uint8))
    changes = [
        lambda m: setattr(m.pose_base_tcp.position, "x", float("nan")),
        lambda m: setattr(m.pose_base_tcp.position, "x", 1e300),
        lambda m: setattr(m.pose_base_tcp.orientation, "w", 5.0),
        lambda m: setattr(m.wrench_tcp.force, "z", float("inf")),
        lambda m: setattr(m, "joint_positions", [0.0, 1.0]),
        lambda m: setattr(m, "camera_names", ["side"]),
        lambda m: setattr(m, "camera_names", []),
        lambda m: setattr(m.images[0], "data", b"no image"),
        lambda m: setattr(m.images[0], "data", small),
        twice,
    ]
    for change in changes:
        ring._observations.publish(spoiled(change))
    ring.until(lambda: ring.statuses[-1].rejected_observations == len(changes))
    assert not ring.actions and "observation: " in ring.statuses[-1].last_error
    ring._events.publish(EpisodeEvent(kind=77, episode_id="x"))
    ring.observation(time.time_ns())
    ring.until(lambda: ring.actions)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"policy": "compact", "checkpoint": "/nowhere"}, "/nowhere"),
        ({"policy": "compact"}, "path: expected a checkpoint folder"),
        ({"policy": "nothing"}, "unknown policy back-end 'nothing'"),
    ],
)
def test_policy_that_cannot_load_at_startup_ends_the_node_with_code_2(policy_node, parameters, reason):
    process = policy_node(**parameters)
    _, errors = process.communicate(timeout=60)
    lines = [line for line in errors.splitlines() if line.startswith(("policy: ", "node: "))]
    assert process.returncode == 2 and len(lines) == 1 and reason in lines[0] and "Traceback" not in errors
