"""`rldg up` and its clients in real processes: a stack that starts, runs, hangs, ends or dies.

The tests share one running stack, in this order: the last two end it.
"""

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

import psutil
import pytest
from geometry_msgs.msg import PoseStamped

from rldg_bringup.client import HEARTBEAT_S, StackClient
from rldg_core.from_msg import pose_array
from rldg_core.leftovers import remove_leftovers, stack_key, stack_started_s
from rldg_ros import qos

DOMAIN = 95
STARTED_S = 90.0
STACK = stack_key(DOMAIN, "/rldg")
ENDS_S = 3.0
"""A stack ends within this time after SIGINT."""

Rldg = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., psutil.Popen]


@pytest.fixture(scope="module")
def running_stack(
    start_rldg: Start, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], tuple[psutil.Popen, Path]]:
    """Return the running stack and the folder of its logs; start it where there is none."""
    stacks: list[tuple[psutil.Popen, Path]] = []

    def stack() -> tuple[psutil.Popen, Path]:
        if not stacks or stacks[-1][0].poll() is not None:
            logs = tmp_path_factory.mktemp("stack") / "log"
            up = start_rldg("up", "insertion", "policy:=scripted", "sim:=true", "--log-dir", logs)
            stacks.append((up, logs))
        return stacks[-1]

    return stack


@pytest.fixture
def stack(running_stack: Callable[[], tuple[psutil.Popen, Path]]) -> psutil.Popen:
    return running_stack()[0]


@contextmanager
def endless_run(start_rldg: Start, client: StackClient) -> Iterator[psutil.Popen]:
    """`rldg run` with more episodes than any test waits for; begins once an episode runs."""
    run = start_rldg("run", "--episodes", 500)
    try:
        before = client.policy_status.ticks if client.policy_status else 0
        client.wait(
            lambda: client.policy_status is not None and client.policy_status.ticks > before + 3, STARTED_S, "ticks"
        )
        yield run
    finally:
        run.kill()
        run.communicate()


def node_process(stack: psutil.Popen, name: str) -> psutil.Process:
    """The process of a node among the children of a command."""
    return next(p for p in stack.children(recursive=True) if f"__node:={name}" in p.cmdline())


def assert_ends(run: psutil.Popen, *causes: str) -> None:
    """With one line that names one of the causes, much earlier than any time-out of a goal."""
    started_s = time.monotonic()
    _, errors = run.communicate(timeout=30.0)
    line = re.sub(r"\s+", " ", errors.strip().splitlines()[-1])
    assert run.returncode == 2
    assert time.monotonic() - started_s < HEARTBEAT_S + 6.0
    assert any(cause in line for cause in causes), line


def test_a_goal_that_comes_while_the_stack_starts_is_served(stack: psutil.Popen, start_rldg: Start) -> None:
    """The client waits for the nodes, which still import, at its first attempt."""
    deadline = time.monotonic() + STARTED_S
    while not stack_started_s(STACK):
        assert time.monotonic() < deadline, "no scratch folder of the starter"
        time.sleep(0.02)
    run = start_rldg("run", "--episodes", 1, "--json")
    output, errors = run.communicate(timeout=STARTED_S)
    assert run.returncode == 0, errors
    assert '"episodes": 1' in output


def test_a_second_stack_is_refused(stack: psutil.Popen, client: StackClient, rldg: Rldg) -> None:
    client.wait_ready(STARTED_S)
    second = rldg("up", "insertion")
    assert second.returncode == 2
    assert second.stderr.strip().startswith(f"rldg: ROS domain {DOMAIN} already runs a stack")
    assert second.stderr.count("\n") == 1


def test_an_interrupted_run_ends_its_episode(
    stack: psutil.Popen, client: StackClient, start_rldg: Start, rldg: Rldg
) -> None:
    """The next run is accepted, or refused for its own error."""
    client.wait_ready(STARTED_S)
    with endless_run(start_rldg, client) as run:
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
        assert run.returncode != 0
    done = rldg("run", "--objects", "hdmi", "--json")
    assert done.returncode == 0 and '"episodes": 1' in done.stdout, done
    done = rldg("run", "--objects", "banana")
    assert done.returncode == 2 and "unknown object 'banana'" in done.stderr, done


def test_requests_are_probed_without_a_trace(stack: psutil.Popen, client: StackClient) -> None:
    """Probes are refused without any effect, also on the last error."""
    client.wait_ready(STARTED_S)
    client.load_policy("other", "hold")
    client.activate_policy("other")
    if "scripted" in [p.policy_id for p in client.list_policies().policies]:
        client.unload_policy("scripted")
    assert [p.policy_id for p in client.list_policies().policies] == ["other"]
    assert client.hold(True, "test")
    assert client.hold(False)
    client.wait(
        lambda: client.policy_status is not None and client.policy_status.active_policy == "other", 10.0, "swap"
    )
    assert client.policy_status and client.policy_status.last_error == ""


def test_a_client_does_not_wait_for_a_hanging_node(stack: psutil.Popen, client: StackClient, start_rldg: Start) -> None:
    client.wait_ready(STARTED_S)
    with endless_run(start_rldg, client) as run:
        episode = node_process(stack, "episode")
        episode.suspend()
        try:
            assert_ends(run, "action run_episodes: node /rldg/episode was silent")
        finally:
            episode.resume()


def test_a_stack_ends_within_3_s_and_the_arm_holds(
    running_stack: Callable[[], tuple[psutil.Popen, Path]], client: StackClient, start_rldg: Start
) -> None:
    """While an episode runs."""
    up, logs = running_stack()
    targets: list[PoseStamped] = []
    poses: list[PoseStamped] = []
    client.node.create_subscription(PoseStamped, "/target_pose", targets.append, qos.TARGET)
    client.node.create_subscription(
        PoseStamped, "/franka_robot_state_broadcaster/current_pose", poses.append, qos.VENDOR_STATE
    )
    client.wait_ready(STARTED_S)
    client.load_policy("scripted", "scripted", activate=True)
    with endless_run(start_rldg, client):
        client.wait(lambda: len(targets) >= 5 and len(poses) >= 5, 60.0, "the arm moves")
        begin = time.monotonic()
        up.send_signal(signal.SIGINT)
        while up.poll() is None and time.monotonic() - begin < 10:
            client.spin(0.02)
        assert time.monotonic() - begin < ENDS_S
        client.spin(0.3)
    # The last target is a measured pose: the controller holds there instead of pulling on.
    last = pose_array(targets[-1].pose)
    assert min(abs(last[:3] - pose_array(p.pose)[:3]).max() for p in poses) < 1e-6
    left = subprocess.run(["pgrep", "-f", str(logs)], capture_output=True, text=True)
    assert left.stdout == ""


def test_a_client_does_not_wait_for_a_dead_stack(stack: psutil.Popen, client: StackClient, start_rldg: Start) -> None:
    """All processes of `rldg up` are killed at once, as by the OOM killer."""
    client.wait_ready(STARTED_S)
    nodes = stack.children(recursive=True)
    with endless_run(start_rldg, client) as run:
        os.killpg(stack.pid, signal.SIGKILL)
        # The nodes end when their starter does: in order when they are quick, so that the gate has the last word.
        assert_ends(run, "node /rldg/episode has ended", "the gate latched: gate stopped", "was silent")
    assert stack_started_s(STACK) is None
    # Killed nodes are still in the graph; a new client waits no longer than for a stack that should be running.
    assert_ends(start_rldg("run"), "is the stack running?", "has ended", "was silent")
    assert psutil.wait_procs(nodes, timeout=STARTED_S)[1] == [], "nodes end with their starter"
    remove_leftovers()
    assert not list(Path(tempfile.gettempdir()).glob(f"rldg_{STACK}*"))
