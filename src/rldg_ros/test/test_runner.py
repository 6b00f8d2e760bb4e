"""How a node ends: with its launcher, after the gate, and during its construction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from rldg_ros.runner import GATE_FIRST_S, LAUNCHER_PID

DOMAIN = "140"
LIMIT_S = 30.0
NODE = """
import sys, time
from pathlib import Path
from threading import Event
from rclpy.node import Node
from rldg_ros.runner import run_node

name, folder, making_s, stopping_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])

def make():
    (folder / f"{name}.making").touch()
    Event().wait(making_s)
    node = Node(name, namespace="/rldg")
    def look():
        if ("gate", "/rldg") in node.get_node_names_and_namespaces():
            (folder / f"{name}.met").touch()
    node.create_timer(0.02, look)
    (folder / f"{name}.made").touch()
    return node

def stop(node):
    Event().wait(stopping_s)
    if not node.describe_parameter("use_sim_time").read_only:
        (folder / f"{name}.writable").touch()
    (folder / f"{name}.stopped").write_text(str(time.monotonic()))

sys.exit(run_node(make, stop))
"""


@contextmanager
def started(
    name: str, folder: Path, launcher: int | None, making_s: float = 0.0, stopping_s: float = 0.0
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "ROS_DOMAIN_ID": DOMAIN}
    environment.pop(LAUNCHER_PID, None)
    if launcher is not None:
        environment[LAUNCHER_PID] = str(launcher)
    command = [sys.executable, "-c", NODE, name, str(folder), str(making_s), str(stopping_s)]
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(path: Path) -> None:
    deadline_s, pause = time.monotonic() + LIMIT_S, Event()
    while not path.exists():
        assert time.monotonic() < deadline_s, f"no {path.name}"
        pause.wait(0.02)


@pytest.fixture
def launcher() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def test_node_ends_when_its_launcher_is_killed(tmp_path: Path, launcher: subprocess.Popen[bytes]) -> None:
    with started("probe", tmp_path, launcher.pid) as node:
        wait_for(tmp_path / "probe.made")
        launcher.kill()  # not waited for, since a zombie has ended, too
        assert node.wait(LIMIT_S) == 0
        assert (tmp_path / "probe.stopped").exists()
        assert not (tmp_path / "probe.writable").exists(), "use_sim_time can be set while a node runs"


def test_node_ends_at_once_when_its_launcher_has_already_ended(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with started("probe", tmp_path, gone.pid) as node:
        assert node.wait(LIMIT_S) == 0
        assert not (tmp_path / "probe.making").exists()


def test_signal_ends_a_node_during_its_construction(tmp_path: Path) -> None:
    with started("probe", tmp_path, None, making_s=1000.0) as node:
        wait_for(tmp_path / "probe.making")
        node.send_signal(signal.SIGINT)
        assert node.wait(LIMIT_S) == 0
        assert not (tmp_path / "probe.made").exists()


def test_launched_node_continues_after_sigint_until_the_gate_has_ended(
    tmp_path: Path, launcher: subprocess.Popen[bytes]
) -> None:
    with (
        started("gate", tmp_path, launcher.pid, stopping_s=GATE_FIRST_S / 4) as gate,
        started("observer", tmp_path, launcher.pid) as observer,
    ):
        wait_for(tmp_path / "gate.made")
        wait_for(tmp_path / "observer.made")
        wait_for(tmp_path / "observer.met")
        for node in (observer, gate):
            node.send_signal(signal.SIGINT)
        assert observer.wait(LIMIT_S) == gate.wait(LIMIT_S) == 0
        ended = {name: float((tmp_path / f"{name}.stopped").read_text()) for name in ("gate", "observer")}
        assert ended["gate"] < ended["observer"]


def test_sigterm_ends_a_launched_node_while_the_gate_runs(tmp_path: Path, launcher: subprocess.Popen[bytes]) -> None:
    with started("gate", tmp_path, launcher.pid) as gate, started("observer", tmp_path, launcher.pid) as observer:
        wait_for(tmp_path / "gate.made")
        wait_for(tmp_path / "observer.made")
        observer.send_signal(signal.SIGTERM)
        assert observer.wait(LIMIT_S) == 0
        assert gate.poll() is None


def test_node_started_by_hand_survives_the_shell_and_does_not_wait_for_a_gate(tmp_path: Path) -> None:
    with started("gate", tmp_path, None) as gate, started("observer", tmp_path, None) as observer:
        wait_for(tmp_path / "gate.made")
        wait_for(tmp_path / "observer.made")
        observer.send_signal(signal.SIGINT)
        assert observer.wait(LIMIT_S) == 0
        assert gate.poll() is None


def test_node_whose_destruction_hangs_ends_with_its_place_in_the_log() -> None:
    """A stand-in for Fast DDS: it spins in a destructor, with the interpreter locked."""
    code = """
import ctypes, os, signal, sys
from rclpy.node import Node
from rldg_ros import runner

class Hangs(Node):
    def __init__(self):
        super().__init__("hangs")
        self.create_timer(0.01, lambda: os.kill(os.getpid(), signal.SIGINT))

    def destroy_node(self):
        ctypes.PyDLL(None).sleep(600)  # keeps the lock, as a call into C++ does

def stop(node):
    runner.DESTROY_S = 0.2

sys.exit(runner.run_node(Hangs, stop))
"""
    environment = {**os.environ, "ROS_DOMAIN_ID": DOMAIN, LAUNCHER_PID: ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 1
    assert "in destroy_node" in done.stderr
