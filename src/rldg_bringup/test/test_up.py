"""`rldg up insertion` in real processes: comes up, refuses a second stack, ends within 3 s with the arm holding."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped

from rldg_bringup.client import StackClient
from rldg_bringup.runner import executable_path
from rldg_core.from_msg import pose_array
from rldg_ros import qos

DOMAIN = 60


def rldg(*arguments: str) -> list[str]:
    return [str(executable_path("rldg_bringup", "rldg")), *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    return {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}


@pytest.fixture
def client() -> Iterator[StackClient]:
    rclpy.init(domain_id=DOMAIN)
    value = StackClient("", lambda: None)
    yield value
    value.close()
    rclpy.try_shutdown()


def test_up_runs_refuses_a_second_and_holds_at_the_end(
    environment: dict[str, str], client: StackClient, tmp_path: Path
) -> None:
    targets: list[PoseStamped] = []
    poses: list[PoseStamped] = []
    client.node.create_subscription(PoseStamped, "/target_pose", targets.append, qos.TARGET)
    client.node.create_subscription(
        PoseStamped, "/franka_robot_state_broadcaster/current_pose", poses.append, qos.VENDOR_STATE
    )
    up = subprocess.Popen(
        rldg("up", "insertion", "policy:=scripted", "--log-dir", str(tmp_path / "log")),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        client.wait_ready()
        run = subprocess.Popen(rldg("run", "--episodes", "50"), env=environment, stderr=subprocess.PIPE, text=True)
        client.wait(lambda: len(targets) >= 5, 60.0, "the arm moves")
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
        assert run.returncode != 0
        # What was interrupted is over: the next run is accepted, and says what is wrong with it.
        for arguments, code, expected in [
            (("--objects", "hdmi", "--json"), 0, '"episodes": 1'),
            (("--objects", "banana"), 2, "unknown object 'banana'"),
        ]:
            done = subprocess.run(rldg("run", *arguments), env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == code and expected in done.stdout + done.stderr, done
        second = subprocess.run(rldg("up", "insertion"), env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert second.stderr.strip().startswith(f"rldg: ROS domain {DOMAIN} already runs a stack")
        assert second.stderr.count("\n") == 1

        begin = time.monotonic()
        up.send_signal(signal.SIGINT)
        while up.poll() is None and time.monotonic() - begin < 10:
            client.spin(0.02)
        assert time.monotonic() - begin < 3.0
        client.spin(0.3)
        # The last target is a measured pose: the controller holds there instead of pulling on.
        last = pose_array(targets[-1].pose)
        assert min(abs(last[:3] - pose_array(p.pose)[:3]).max() for p in poses) < 1e-6
        left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
        assert left.stdout == ""
    finally:
        if up.poll() is None:
            os.killpg(up.pid, signal.SIGKILL)


def test_no_gl_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        rldg("evaluate", "insertion", "--policy", "hold", "--log-dir", str(tmp_path)),
        env={**environment, "MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 2
    assert "no off-screen OpenGL for camera images: apt-get install libegl1" in done.stderr
    assert "Traceback" not in done.stderr + (tmp_path / "cell.log").read_text()


def test_bad_input_is_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\nspeed: 3\n")
    for arguments, expected in [
        (("up", "insertion", f"task:={bad}"), "bad.yaml"),
        (("up", "insertion", "colour:=red"), "unknown argument 'colour'"),
        (("up", "insertion", "sim"), "expected name:=value"),
        (("evaluate", "dance", "--policy", "hold"), "unknown task 'dance'"),
        (("evaluate", "insertion", "--policy", "hold", "--objects", "banana"), "unknown object 'banana'"),
        (("evaluate", "insertion", "--policy", "magic", "--log-dir", str(tmp_path)), "magic"),
        (("policy", "list"), "service policy/list: no answer within 8 s"),
        (("export", str(tmp_path), "--out", str(tmp_path / "d"), "--name", "x"), "no bags"),
        (("finetune", "compact", str(tmp_path), "--out", str(tmp_path / "c")), "not a dataset"),
        (("bag", "info", str(tmp_path)), "no bags in it"),
    ]:
        done = subprocess.run(rldg(*arguments), env=environment, capture_output=True, text=True, timeout=90)
        assert done.returncode == 2, done
        line = [text for text in done.stderr.splitlines() if text.startswith("rldg: ")]
        assert len(line) == 1, done.stderr
        assert expected in line[0]
        assert "Traceback" not in done.stderr
