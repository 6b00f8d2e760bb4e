"""The launch files with `launch` and `launch_ros`, which are not on PyPI: skipped without them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

from rldg_bringup.arguments import arguments_from_text
from rldg_bringup.runner import parameter_file
from rldg_bringup.stack import insertion_stack
from rldg_core.files import sha256_hex

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS installation, not from PyPI")

DOMAIN = 63
SHARE = Path(get_package_share_directory("rldg_bringup"))
LAUNCH_FILE = SHARE / "launch" / "insertion.launch.py"
NAMES = ("cell", "observer", "gate", "policy", "episode", "exporter")
READY = "from rldg_bringup.client import connected\nwith connected() as c: c.wait_ready(100)"


class Launched:
    """A running `ros2 launch`, its nodes and its output."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, environment: dict[str, str]) -> None:
        self.process, self._output, self._environment = process, output, environment
        self.nodes: list[psutil.Process] = []

    @property
    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_ready(self) -> None:
        subprocess.run([sys.executable, "-c", READY], env=self._environment, check=True, timeout=110)
        self.nodes = psutil.Process(self.process.pid).children(recursive=True)
        assert len(self.nodes) >= len(NAMES)

    def wait_for_the_end(self, limit_s: float = 30.0) -> int:
        """Wait until `ros2 launch` and its nodes have ended; return its code."""
        code = self.process.wait(limit_s)
        _, left = psutil.wait_procs(self.nodes, limit_s)
        assert not left, self.text
        return code


@contextmanager
def ros2_launch(tmp_path: Path, *arguments: str, ready: bool = True) -> Iterator[Launched]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    output = tmp_path / "output.txt"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["ros2", "launch", "rldg_bringup", "insertion.launch.py", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    launched = Launched(process, output, environment)
    try:
        if ready:
            launched.wait_ready()
        yield launched
    finally:
        for left in [*launched.nodes, psutil.Process(process.pid)] if process.poll() is None else launched.nodes:
            if left.is_running():
                left.kill()
        process.wait(10)


@pytest.fixture
def robot_and_task(tmp_path: Path) -> dict[str, str]:
    """Write a robot of another distribution and a task with two cameras outside the repository."""
    profile = yaml.safe_load((SHARE / "config" / "robots" / "fr3_ros.yaml").read_text())
    profile["joints"] = [f"arm_joint_{number}" for number in range(1, 8)]
    profile["topics"]["pose"] = {**profile["topics"]["pose"], "topic": "arm/pose", "qos": "reliable"}
    task = yaml.safe_load((SHARE / "config" / "tasks" / "insertion_franka.yaml").read_text())
    task["cameras"]["wrist"]["device"] = "0123"
    task["cameras"]["side"] = {"topic": "side/camera/color/image_raw", "device": "4567"}
    files = {"robot": tmp_path / "mine.yaml", "task": tmp_path / "two_cameras.yaml"}
    for name, data in (("robot", profile), ("task", task)):
        files[name].write_text(yaml.safe_dump(data))
    return {name: str(path) for name, path in files.items()}


def launched_nodes(arguments: dict[str, str]) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return full name -> package, executable and parameters of each node that the launch file starts."""
    from launch.substitutions import TextSubstitution
    from launch_ros.actions import Node

    from launch import LaunchContext

    spec = importlib.util.spec_from_file_location("insertion_launch", LAUNCH_FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    context.launch_configurations.update(arguments)
    entities = [one for entity in module.generate_launch_description().entities for one in entity.visit(context) or []]
    found = {}
    for node in (one for one in entities if isinstance(one, Node)):
        node._perform_substitutions(context)
        words = [part[0].text if isinstance(part[0], TextSubstitution) else "" for part in node.cmd if part]
        files = [Path(words[i + 1]) for i, word in enumerate(words) if word == "--params-file"]
        (sections,) = [yaml.full_load(file.read_text()) for file in files]  # launch_ros writes lists as Python's tuples
        (section,) = sections.values()
        parameters = section["ros__parameters"].items()
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in parameters}
        found[node.node_name] = (node.node_package, node.node_executable, values)
    return found


@pytest.mark.parametrize("added", [False, True])
def test_rldg_up_and_ros2_launch_start_exactly_the_declared_nodes(robot_and_task: dict[str, str], added: bool) -> None:
    given = {**robot_and_task, "drivers": "false", "run_id": "007"} if added else {}
    declared = insertion_stack(arguments_from_text(given), SHARE)
    by_rldg_up = {}
    for node in declared.nodes:
        ((name, section),) = yaml.safe_load(parameter_file(node)).items()
        by_rldg_up[name] = (node.package, node.executable, section["ros__parameters"])
    assert launched_nodes(given) == by_rldg_up
    assert not added or {"/camera/camera", "/side/camera", "/rldg/teleop"} <= set(by_rldg_up)


@pytest.fixture
def load() -> Iterator[None]:
    """Run four busy processes per core."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4 * (os.cpu_count() or 1))]
    yield
    for process in busy:
        process.kill()
        process.wait()


def test_start_under_load_has_no_warning_and_sigint_ends_the_gate_first(tmp_path: Path, load: None) -> None:
    with ros2_launch(tmp_path, "policy:=hold") as launched:
        start = launched.text
        assert not re.findall(r".*(?:WARN|ERROR|Traceback).*", start)
        # Signal the whole process group, as a terminal does.
        os.killpg(launched.process.pid, signal.SIGINT)
        assert launched.wait_for_the_end() in (0, 1, -signal.SIGINT)
        end = launched.text[len(start) :]
        assert not re.findall(r".*(?:ERROR|failed to terminate|Traceback).*", end)
        ends = re.findall(r"\[(\w+)-\d+\]: process has finished cleanly", end)
        assert ends[0] == "gate" and sorted(ends) == sorted(NAMES), end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nodes_end_with_ros2_launch_after_any_signal(tmp_path: Path, number: signal.Signals) -> None:
    with ros2_launch(tmp_path, "policy:=hold") as launched:
        launched.process.send_signal(number)
        launched.wait_for_the_end()


def test_policy_that_cannot_load_ends_the_launch_with_code_and_reason(tmp_path: Path) -> None:
    """Its description fits the stack, but it holds no weights: only loading shows that."""
    checkpoint = tmp_path / "octo"
    low, high = [-0.01] * 7, [0.01] * 7
    action = {"mean": [0.0] * 7, "std": high, "min": low, "max": high, "q01": low, "q99": high, "mask": [True] * 7}
    statistics = json.dumps({"random": {"action": action}}).encode()
    checkpoint.mkdir()
    manifest = {"backend": "octo", "image_size": 256, "window": 1, "horizon": 4, "rate_hz": 10.0, "version": 1}
    manifest |= {"statistics_key": "random", "statistics_sha256": sha256_hex(statistics)}
    (checkpoint / "rldg.json").write_text(json.dumps(manifest))
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "dataset_statistics.json").write_bytes(statistics)
    with ros2_launch(tmp_path, "policy:=octo", f"checkpoint:={checkpoint}", ready=False) as launched:
        assert launched.wait_for_the_end(60) == 1
        assert "node policy ended with code 2" in launched.text
        assert str(checkpoint) in launched.text and "Traceback" not in launched.text


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("recrod:=true", "unknown argument 'recrod', expected record"),
        ("seed:=-1", "argument seed: expected 0 to"),
        ("sim:=maybe", "argument sim: expected true or false, got 'maybe'"),
        ("robot_ip:=a b", "argument robot_ip: expected a name like 172.16.0.2, got 'a b'"),
    ],
)
def test_bad_argument_starts_nothing(tmp_path: Path, argument: str, message: str) -> None:
    with ros2_launch(tmp_path, argument, ready=False) as launched:
        assert launched.wait_for_the_end(60) == 1
        assert message in launched.text and "process started" not in launched.text


def test_misspelt_argument_of_an_including_launch_file_is_refused(tmp_path: Path) -> None:
    outer = tmp_path / "outer.launch.py"
    outer.write_text(
        "from launch import LaunchDescription\n"
        "from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource\n"
        "def generate_launch_description():\n"
        f"    ours = PythonLaunchDescriptionSource({str(LAUNCH_FILE)!r})\n"
        "    return LaunchDescription([DeclareLaunchArgument('table', default_value='left'),\n"
        "        IncludeLaunchDescription(ours, launch_arguments={'target_topc': '/x'}.items())])\n"
    )
    done = subprocess.run(
        ["ros2", "launch", str(outer), "table:=right"],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "ROS_LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "unknown argument 'target_topc', expected target_topic" in done.stdout + done.stderr


def test_shell_without_env_sh_is_refused_with_the_remedy() -> None:
    # As after install/setup.bash alone: ROS and the workspace are found, the packages of .venv are not.
    paths = [p for p in os.environ["PYTHONPATH"].split(os.pathsep) if ".venv" not in p]
    python = str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    done = subprocess.run(
        [python, "-c", "import launch_ros; import rldg_bringup.launching"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "'launch_ros'" in done.stderr:
        pytest.skip("launch_ros is in .venv itself")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: No module named ") and "source scripts/env.sh" in last, done.stderr
