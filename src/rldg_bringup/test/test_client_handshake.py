"""Commands beside a stack that starts, ends or hangs: real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import rclpy

from rldg_bringup.client import HEARTBEAT_S, StackClient
from rldg_bringup.runner import executable_path
from rldg_core.leftovers import remove_leftovers, stack_key, stack_started_s

DOMAIN = 95
STARTED_S = 90.0
STACK = stack_key(DOMAIN, "/rldg")


def rldg(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(executable_path("rldg_bringup", "rldg")), *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    up = rldg("up", "insertion", "policy:=scripted", "sim:=true", "--log-dir", str(folder / "log"))
    yield up
    end(up)


def end(up: subprocess.Popen[str]) -> None:
    """End a stack, with SIGKILL where a starter is stuck in Fast DDS after one of its peers stood still."""
    if up.poll() is None:
        up.send_signal(signal.SIGINT)
    try:
        up.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(up.pid, signal.SIGKILL)
        up.wait(15)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A stack shared by the tests that leave it unchanged; a test that stops a part of it comes last."""
    with started(tmp_path_factory.mktemp("stack")) as up:
        yield up


@pytest.fixture
def client() -> Iterator[StackClient]:
    rclpy.init(domain_id=DOMAIN)
    value = StackClient("", lambda: None)
    yield value
    value.close()
    rclpy.try_shutdown()


def pids_of_nodes() -> dict[str, int]:
    """Return name -> process of the nodes of this test's stack."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"ROS_DOMAIN_ID={DOMAIN}".encode() in environment:
            names = [word.decode().partition(":=")[2] for word in command if word.startswith(b"__node:=")]
            found |= dict.fromkeys(names, int(folder.name))
    return found


def pid_of(node: str) -> int:
    return pids_of_nodes()[node]


def running(client: StackClient) -> None:
    """Wait until an episode of the other process's goal runs."""
    before = client.policy_status.ticks if client.policy_status else 0
    client.wait(
        lambda: client.policy_status is not None and client.policy_status.ticks > before + 3, STARTED_S, "ticks"
    )


def last_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    _, errors = process.communicate(timeout=timeout_s)
    return re.sub(r"\s+", " ", errors.strip().splitlines()[-1])


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s, pause = time.monotonic() + STARTED_S, Event()
    while not condition():
        assert time.monotonic() < deadline_s, what
        pause.wait(0.02)


def test_goal_sent_during_the_start_of_the_stack_is_served(stack: subprocess.Popen[str]) -> None:
    """The starter runs and its nodes are still importing: the client waits for them."""
    until(lambda: stack_started_s(STACK), "the starter's folder")
    run = rldg("run", "--episodes", "1", "--json")
    output, errors = run.communicate(timeout=STARTED_S)
    assert run.returncode == 0, errors
    assert '"episodes": 1' in output


def test_probes_change_nothing(stack: subprocess.Popen[str], client: StackClient) -> None:
    """The request of a probe is refused and changes nothing, not even the last error."""
    client.wait_ready(STARTED_S)
    client.load_policy("other", "hold")
    client.activate_policy("other")
    if "scripted" in [p.policy_id for p in client.list_policies().policies]:  # false in a rerun
        client.unload_policy("scripted")
    assert [p.policy_id for p in client.list_policies().policies] == ["other"]
    assert client.hold(True, "test")
    assert client.hold(False)
    client.wait(
        lambda: client.policy_status is not None and client.policy_status.active_policy == "other", 10.0, "swap"
    )
    assert client.policy_status
    error = client.policy_status.last_error
    assert not error or error.startswith("no observation for")  # a busy machine misses a tick


def test_client_does_not_wait_for_a_hanging_node(stack: subprocess.Popen[str], client: StackClient) -> None:
    client.wait_ready(STARTED_S)
    run = rldg("run", "--episodes", "500")
    try:
        running(client)
        os.kill(pid_of("episode"), signal.SIGSTOP)
        assert_ends(run, "action run_episodes: node /rldg/episode was silent")
    finally:
        os.kill(pid_of("episode"), signal.SIGCONT)
        run.kill()
        run.wait()
        # Nobody waits for this goal now.
        end(stack)


def test_client_does_not_wait_for_a_killed_stack(tmp_path: Path, client: StackClient) -> None:
    """All processes are killed at once, as by the OOM killer or a power failure."""
    with started(tmp_path) as up:
        client.wait_ready(STARTED_S)
        run = rldg("run", "--episodes", "500")
        try:
            running(client)
            os.killpg(up.pid, signal.SIGKILL)
            until(lambda: stack_started_s(STACK) is None, "the killed starter's lock")
            killed_s, late = time.monotonic(), rldg("run")
            # The nodes end after their starter, with the gate last when the others are quick enough.
            assert_ends(run, "node /rldg/episode has ended", "the gate latched: gate stopped", "was silent")
            # A new client that still sees old names in the graph is refused within the time limit of a running stack.
            assert_ends(late, "is the stack running?", "has ended", "was silent", since_s=killed_s)
        finally:
            run.kill()
            run.wait()
        until(lambda: not pids_of_nodes(), "the nodes of a killed starter end")
    remove_leftovers()
    assert not list(Path(tempfile.gettempdir()).glob(f"rldg_{STACK}*"))


def assert_ends(run: subprocess.Popen[str], *causes: str, since_s: float | None = None) -> None:
    """Check that the command ends with one line that names the cause, long before the time-out of a goal.

    since_s: start of the wait on the monotonic clock; default now.
    """
    started_s = time.monotonic() if since_s is None else since_s
    line = last_line(run, 30.0)
    assert run.returncode == 2
    assert time.monotonic() - started_s < HEARTBEAT_S + 6.0
    assert any(cause in line for cause in causes), line
