"""Default network isolation: a second host, in its own network namespace, sees nothing and can inject nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rldg_core.network import PROFILE, PROFILE_VARIABLE, RANGE_VARIABLE, network_variable, stay_on_this_machine

DOMAIN = "93"
HERE, THERE = "10.93.0.1", "10.93.0.2"
STARTED_S, SILENCE_S = 30.0, 6.0
"""Discovery between two processes takes 0.1 to 2 s; silence is observed for longer than the first contact takes."""

SECOND_HOST = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo up && read end"

NODE = """
import sys, time
from rldg_core.network import stay_on_this_machine
if "default" in sys.argv: stay_on_this_machine()
import rclpy
from rclpy.qos import QoSProfile, DurabilityPolicy
from std_msgs.msg import String
rclpy.init(args=[])
name = sys.argv[1]
node = rclpy.create_node(name)
qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
heard = set()
def on(message):
    if message.data != name and message.data not in heard:
        heard.add(message.data)
        print("heard", message.data, flush=True)
node.create_subscription(String, "pose", on, qos)
sender = node.create_publisher(String, "pose", qos)
node.create_timer(0.1, lambda: sender.publish(String(data=name)))
print("started", flush=True)
rclpy.spin(node)
"""


class Process:
    """One node that publishes its name and prints the names it receives."""

    def __init__(self, name: str, prefix: list[str], mode: str, **environment: str) -> None:
        inherited = {
            k: v
            for k, v in os.environ.items()
            if k not in (PROFILE_VARIABLE, RANGE_VARIABLE, "ROS_STATIC_PEERS", "RMW_IMPLEMENTATION")
        }
        self.lines: list[str] = []
        self._heard = threading.Condition()
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-c", NODE, name, mode],
            env={**inherited, "ROS_DOMAIN_ID": DOMAIN, **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._heard:
                self.lines.append(line.strip())
                self._heard.notify()

    def printed(self, line: str, timeout_s: float) -> bool:
        """Return whether the line is printed within the time limit."""
        with self._heard:
            return self._heard.wait_for(lambda: line in self.lines, timeout_s)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def second_host() -> Iterator[list[str]]:
    """Return the command prefix of a second host: its own network and shared memory, connected to this one."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        pytest.skip("needs root and iproute2 for a network namespace")
    host = subprocess.Popen(
        [
            "unshare",
            "--net",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo up && read end",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert host.stdout
        if host.stdout.readline().strip() != "up":
            pytest.skip("this container may not make network namespaces")
        enter = ["nsenter", "-t", str(host.pid), "-n", "-m"]
        for command in (
            f"ip link add rldg93 type veth peer name rldg93b netns {host.pid}",
            f"ip addr add {HERE}/24 dev rldg93",
            "ip link set rldg93 up",
        ):
            subprocess.run(command.split(), check=True)
        for command in (f"ip addr add {THERE}/24 dev rldg93b", "ip link set rldg93b up"):
            subprocess.run([*enter, *command.split()], check=True)
        subprocess.run([*enter, "ping", "-c1", "-W5", HERE], check=False, stdout=subprocess.DEVNULL)
        yield enter
    finally:
        subprocess.run(["ip", "link", "del", "rldg93"], check=False, stderr=subprocess.DEVNULL)
        host.kill()
        host.wait()


@contextmanager
def running(*arguments: tuple[str, list[str], str, dict[str, str]]) -> Iterator[list[Process]]:
    with ExitStack() as stack:
        processes = []
        for name, prefix, mode, environment in arguments:
            process = Process(name, prefix, mode, **environment)
            stack.callback(process.end)
            processes.append(process)
        for process in processes:
            assert process.printed("started", STARTED_S)
        yield processes


def test_second_host_sees_nothing_and_injects_nothing(second_host: list[str]) -> None:
    intruder = {RANGE_VARIABLE: "SUBNET", "ROS_STATIC_PEERS": HERE}
    nodes = (
        ("arm", [], "default", {RANGE_VARIABLE: "LOCALHOST"}),
        ("gate", [], "default", {}),
        ("intruder", second_host, "as it is", intruder),
    )
    with running(*nodes) as (arm, gate, other):
        assert arm.printed("heard gate", STARTED_S)
        assert gate.printed("heard arm", STARTED_S)
        assert not other.printed("heard arm", SILENCE_S)
        assert other.lines == ["started"]
        assert "heard intruder" not in arm.lines + gate.lines


def test_tools_without_our_environment_work_on_this_machine() -> None:
    """Run `ros2 topic echo` in a shell without our environment, and with the range of the documentation."""
    nodes = [
        ("ours", [], "default", {}),
        ("plain", [], "as it is", {}),
        ("local", [], "as it is", {RANGE_VARIABLE: "LOCALHOST"}),
    ]
    with running(*nodes) as (ours, plain, local):
        assert ours.printed("heard plain", STARTED_S) and plain.printed("heard ours", STARTED_S)
        assert ours.printed("heard local", STARTED_S) and local.printed("heard ours", STARTED_S)


def test_several_hosts_communicate_when_configured(second_host: list[str]) -> None:
    """The documented configuration: the range on both hosts, or the peers by their addresses."""
    nodes = [
        ("robot", [], "default", {"ROS_STATIC_PEERS": THERE, RANGE_VARIABLE: "SUBNET"}),
        ("learner", second_host, "default", {"ROS_STATIC_PEERS": HERE, RANGE_VARIABLE: "SUBNET"}),
    ]
    with running(*nodes) as (robot, learner):
        assert robot.printed("heard learner", STARTED_S)
        assert learner.printed("heard robot", STARTED_S)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, ""),
        ({RANGE_VARIABLE: "LOCALHOST"}, ""),
        ({RANGE_VARIABLE: "localhost"}, ""),
        ({PROFILE_VARIABLE: str(PROFILE), RANGE_VARIABLE: "SYSTEM_DEFAULT"}, ""),
        ({RANGE_VARIABLE: "SUBNET"}, RANGE_VARIABLE),
        ({RANGE_VARIABLE: "OFF"}, RANGE_VARIABLE),
        ({"ROS_STATIC_PEERS": THERE}, "ROS_STATIC_PEERS"),
        ({"ROS_DISCOVERY_SERVER": THERE}, "ROS_DISCOVERY_SERVER"),
        ({PROFILE_VARIABLE: "mine.xml"}, PROFILE_VARIABLE),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, "RMW_IMPLEMENTATION"),
    ],
)
def test_environment_decides_between_network_and_this_machine(environment: dict[str, str], reason: str) -> None:
    before = dict(environment)
    assert network_variable(environment) == reason
    assert stay_on_this_machine(environment) == (not reason)
    if reason:
        assert environment == before
    else:
        assert environment == {**before, PROFILE_VARIABLE: str(PROFILE), RANGE_VARIABLE: "SYSTEM_DEFAULT"}
    assert Path(PROFILE).is_file()
