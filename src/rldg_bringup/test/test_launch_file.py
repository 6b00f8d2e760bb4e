"""The launch file, with the real `launch` and `launch_ros`. They are not on PyPI: skipped where they are missing."""

import importlib.util
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory

from rldg_bringup.stack import StackArguments, insertion_stack

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS installation, not from PyPI")

SHARE = Path(get_package_share_directory("rldg_bringup"))
LAUNCH_FILE = SHARE / "launch" / "insertion.launch.py"


def test_the_launch_file_starts_exactly_the_declared_nodes() -> None:
    from launch_ros.actions import Node

    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("insertion_launch", LAUNCH_FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    started = []
    for entity in module.generate_launch_description().entities:
        started += [a for a in entity.visit(context) or [] if isinstance(a, Node)]
    declared = insertion_stack(StackArguments(), SHARE)
    assert [(n.node_package, n.node_executable) for n in started] == [(n.package, n.executable) for n in declared.nodes]


def test_ros2_launch_comes_up_and_ends_within_three_seconds(tmp_path: Path) -> None:
    environment = {**os.environ, "ROS_DOMAIN_ID": "63", "ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["ros2", "launch", "rldg_bringup", "insertion.launch.py", "policy:=hold"],
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        check = "from rldg_bringup.client import connected\nwith connected() as c: c.wait_ready(50)"
        subprocess.run(["python3", "-c", check], env=environment, check=True, timeout=deadline - time.monotonic())
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        process.wait(10)
        assert time.monotonic() - begin < 3.0, output.read_text()
        assert "Traceback" not in output.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
