"""Fixtures for the `rldg` command, in this process and in another one, and for a client, in the domain of the test
file.

A test file that uses them states its domain as DOMAIN.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import rclpy
import yaml

from rldg_bringup import cli
from rldg_bringup.client import StackClient
from rldg_bringup.pipeline import share_dir
from rldg_bringup.runner import executable_path

ENDS_S = 15.0
"""Longer than a stack takes to end after SIGINT."""


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """Restore the signal handlers that the `main` of a command or of a node replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rldg(
    request: pytest.FixtureRequest,
    restored_signals: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `main` with arguments in this process; keyword arguments are environment variables for this call."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["rldg", *map(str, arguments)]
        capsys.readouterr()
        with monkeypatch.context() as patched:
            for name in ("RLDG_DEBUG", "FASTDDS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"):
                patched.setenv(name, os.environ.get(name, ""))  # `main` may set it, which is undone after the call
            patched.setenv("ROS_DOMAIN_ID", str(request.module.DOMAIN))
            patched.setenv("COLUMNS", "160")
            for name, value in environment.items():
                patched.setenv(name, value)
            patched.setattr(sys, "argv", command)
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(command, code, printed.out, printed.err)

    return run


@pytest.fixture(scope="module")
def start_rldg(request: pytest.FixtureRequest) -> Iterator[Callable[..., psutil.Popen]]:
    """Start the command as a process with text output; processes that still run are ended after the file's tests."""
    processes: list[psutil.Popen] = []

    def start(*arguments: object) -> psutil.Popen:
        process = psutil.Popen(
            [str(executable_path("rldg_bringup", "rldg")), *map(str, arguments)],
            env={**os.environ, "ROS_DOMAIN_ID": str(request.module.DOMAIN), "COLUMNS": "300"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.communicate(timeout=ENDS_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its nodes end with it
            process.communicate()


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[StackClient]:
    """Return a client of a stack that another process has started; it does not watch that stack's processes."""
    rclpy.init(domain_id=request.module.DOMAIN)
    value = StackClient("", lambda: None)
    yield value
    value.close()
    rclpy.try_shutdown()


@pytest.fixture
def ideal_task(tmp_path: Path) -> Path:
    """Return a task file of the insertion in the ideal cell, where the scripted operator hardly ever fails."""
    content = yaml.safe_load((share_dir() / "config" / "tasks" / "insertion.yaml").read_text())
    content["scene"]["realism"] = "ideal"
    path = tmp_path / "insertion.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
