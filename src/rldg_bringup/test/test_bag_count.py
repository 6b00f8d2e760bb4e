"""Fewer bags than episodes is never success: what the commands see when the recorder loses, dies or hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rldg_bringup.runner import executable_path
from rldg_data.bags.reading import find_bags

DOMAIN = "131"
DEADLINE_S = 120.0


@contextmanager
def rldg(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own; it and its stack are ended at the end."""
    process = subprocess.Popen(
        [executable_path("rldg_bringup", "rldg"), *map(str, arguments)],
        env={**os.environ, "ROS_DOMAIN_ID": DOMAIN, "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)


def recorder_of(process: subprocess.Popen[str]) -> int | None:
    """Process id of the recorder that the command started."""
    for folder in Path("/proc").iterdir():
        try:
            command, status = (folder / "cmdline").read_bytes(), (folder / "stat").read_text()
        except OSError:
            continue
        if b"rldg_data/recorder" in command and int(status.rpartition(")")[2].split()[1]) == process.pid:
            return int(folder.name)
    return None


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"timed out: {what}"
        time.sleep(0.02)


def test_a_lost_episode_is_one_line_and_code_2(tmp_path: Path) -> None:
    """A file where the bag's folder should be: the recorder cannot write, as on a full disk."""
    out = tmp_path / "bags"
    out.mkdir()
    (out / "episode_000000").write_text("in the way")
    with rldg("record", "insertion", "--episodes", 1, "--out", out, "--json") as process:
        printed, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, printed) == (2, "")
    (line,) = [line for line in errors.splitlines() if line.startswith("rldg: ")]
    assert f"{out}: 1 of 1 episodes have no bag, first 'demonstration-0/000000': recorder: " in line
    assert f"{out}/episode_000000: cannot write: Not a directory" in line


def test_a_recorder_that_hangs_is_noticed(tmp_path: Path) -> None:
    """What becomes of one that dies: test_kills.py."""
    out = tmp_path / "bags"
    with rldg("record", "insertion", "--episodes", 2, "--out", out) as process:
        wait_until(lambda: list(out.glob("*episode_*")), "the first bag")
        pid = recorder_of(process)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("rldg: ")]
    assert "episodes have no bag" in line


def test_rldg_run_beside_a_stack_counts_its_bags(tmp_path: Path) -> None:
    out, log = tmp_path / "bags", tmp_path / "log"
    arguments = ["policy:=hold", "operator:=demonstrate", "record:=true", f"bag_dir:={out}", "use_sim_time:=true"]
    with rldg("up", "insertion", *arguments, "--log-dir", log) as stack:
        wait_until(lambda: (log / "episode.log").is_file(), "the stack starts")
        with rldg("run", "--episodes", 1, "--json") as process:
            printed, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
        assert json.loads(printed)["episodes"] == len(find_bags(out)) == 1
        (out / "episode_000001").write_text("in the way")
        with rldg("run", "--episodes", 1) as process:
            _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert "rldg: recorder: no bag of every episode, the newest is " in errors
        assert "episode_000001: cannot write: Not a directory" in errors
        assert stack.poll() is None
