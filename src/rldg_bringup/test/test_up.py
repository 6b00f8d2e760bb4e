"""`rldg up insertion` in real processes, and bad input: one line and exit code 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from geometry_msgs.msg import PoseStamped

from rldg_bringup import client as stack_clients
from rldg_bringup.client import StackClient
from rldg_bringup.runner import executable_path
from rldg_core.from_msg import pose_array
from rldg_ros import qos

DOMAIN = 60

Rldg = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str) -> list[str]:
    return [str(executable_path("rldg_bringup", "rldg")), *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}


def test_up_runs_refuses_a_second_stack_and_holds_at_the_end(
    environment: dict[str, str], client: StackClient, tmp_path: Path
) -> None:
    targets: list[PoseStamped] = []
    poses: list[PoseStamped] = []
    client.node.create_subscription(PoseStamped, "/target_pose", targets.append, qos.TARGET)
    client.node.create_subscription(
        PoseStamped, "/franka_robot_state_broadcaster/current_pose", poses.append, qos.VENDOR_STATE
    )
    up = subprocess.Popen(
        command("up", "insertion", "policy:=scripted", "--log-dir", str(tmp_path / "log")),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        client.wait_ready()
        run = subprocess.Popen(command("run", "--episodes", "50"), env=environment, stderr=subprocess.PIPE, text=True)
        client.wait(lambda: len(targets) >= 5, 60.0, "the arm moves")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
        assert run.returncode != 0
        # The interrupted run is over: the next one is accepted and reports its own error.
        for arguments, code, expected in [
            (("--objects", "hdmi", "--json"), 0, '"episodes": 1'),
            (("--objects", "banana"), 2, "unknown object 'banana'"),
        ]:
            done = subprocess.run(
                command("run", *arguments), env=environment, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == code and expected in done.stdout + done.stderr, done
        second = subprocess.run(command("up", "insertion"), env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert second.stderr.strip().startswith(f"rldg: ROS domain {DOMAIN} already runs a stack")
        assert second.stderr.count("\n") == 1

        begin = time.monotonic()
        up.send_signal(signal.SIGINT)
        while up.poll() is None and time.monotonic() - begin < 10:
            client.spin(0.02)
        assert time.monotonic() - begin < 3.0
        client.spin(0.3)
        # The last target is a measured pose, within its noise: the controller holds there and pulls no further.
        last = pose_array(targets[-1].pose)
        assert min(abs(last[:3] - pose_array(p.pose)[:3]).max() for p in poses) < 1e-4
        left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
        assert left.stdout == ""
    finally:
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)


def test_evaluate_prints_successes_and_costs_and_leaves_no_bags(rldg: Rldg, ideal_task: Path, tmp_path: Path) -> None:
    done = rldg("evaluate", ideal_task, "--policy", "scripted", "--json", "--episodes", 1, "--log-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["success"], printed["episodes"]) == (1, 1)
    assert printed["duration_s"] == pytest.approx(printed["cycle_time_s"]) and printed["cycle_time_s"] > 0.3
    assert printed["max_force_n"] == printed["peak_force_n"] >= 0
    assert 75.0 < printed["score"] <= 99.0
    assert not list(Path(tempfile.gettempdir()).glob("rldg_evaluate_*"))


def test_missing_gl_is_refused(rldg: Rldg, tmp_path: Path) -> None:
    """The node `cell` reports the error."""
    done = rldg("evaluate", "insertion", "--policy", "hold", "--log-dir", tmp_path, MUJOCO_GL="nonsense")
    assert done.returncode == 2
    assert "no off-screen OpenGL for camera images: apt-get install libegl1" in done.stderr
    assert "Traceback" not in done.stderr + (tmp_path / "cell.log").read_text()


BAD_INPUT = [
    (("up", "insertion", "task:={tmp}/bad.yaml"), "bad.yaml"),
    (("up", "insertion", "colour:=red"), "unknown argument 'colour'"),
    (("up", "insertion", "sim"), "expected name:=value"),
    (("evaluate", "dance", "--policy", "hold"), "unknown task 'dance'"),
    (("evaluate", "insertion", "--policy", "hold", "--objects", "banana"), "unknown object 'banana'"),
    (("evaluate", "insertion", "--policy", "magic", "--log-dir", "{tmp}"), "magic"),
    (("export", "{tmp}", "--out", "{tmp}/d", "--name", "x"), "no bags"),
    (("finetune", "compact", "{tmp}", "--out", "{tmp}/c"), "not a dataset"),
    (("bag", "info", "{tmp}"), "no bags in it"),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), BAD_INPUT, ids=lambda value: value if isinstance(value, str) else ""
)
def test_bad_input_is_refused(rldg: Rldg, tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nspeed: 3\n")
    done = rldg(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert_one_line(done.returncode, done.stderr, expected)


def test_command_without_a_stack_waits_and_fails(rldg: Rldg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_clients, "RUNNING_TIMEOUT_S", 1.0)
    done = rldg("policy", "list")
    assert_one_line(done.returncode, done.stderr, "service policy/list: no answer within 1 s; is the stack running?")


def test_node_in_its_own_process_ends_in_the_same_way(start_rldg: Callable[..., psutil.Popen], tmp_path: Path) -> None:
    process = start_rldg("up", "insertion", f"task:={tmp_path}/nowhere.yaml")
    _, errors = process.communicate(timeout=60)
    assert_one_line(process.returncode, errors, "nowhere.yaml")


def assert_one_line(code: int, errors: str, expected: str) -> None:
    assert code == 2, errors
    (line,) = [text for text in errors.splitlines() if text.startswith("rldg: ")]
    assert expected in line
    assert "Traceback" not in errors
