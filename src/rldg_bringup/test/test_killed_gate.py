"""The gate is killed with SIGKILL while episodes are recorded: the command ends, names the node and leaves no process,
and every closed bag can be read. The runner watches all nodes alike; test_resume.py kills the recorder."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil

from rldg_bringup.runner import executable_path
from rldg_data.bags.reading import find_bags, read_episode

DOMAIN = 209
DEADLINE_S = 90.0


def test_killed_gate_ends_the_stack_and_loses_no_closed_bag(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    command = [str(executable_path("rldg_bringup", "rldg")), "record", "insertion", "--episodes", "50"]
    process = psutil.Popen(
        [*command, "--out", str(bags)],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while len(find_bags(bags) if bags.is_dir() else []) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline_s, "no bag was recorded"
            psutil.wait_procs([process], timeout=0.05)
        nodes = process.children(recursive=True)
        next(p for p in nodes if "__node:=gate" in p.cmdline()).kill()
        _, errors = process.communicate(timeout=10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # its nodes end with it
    assert process.returncode == 2, errors
    assert "node gate ended with code -9" in errors.splitlines()[-1]
    _, alive = psutil.wait_procs(nodes, timeout=0)
    assert alive == []
    assert all(read_episode(bag) for bag in find_bags(bags))
