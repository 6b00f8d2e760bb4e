"""Leftovers of killed processes are removed at the next start; files in use stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rldg_core import leftovers
from rldg_core.leftovers import SHARED_MEMORY, ScratchFolder, remove_leftovers, stack_key, stack_started_s

DOMAIN = "97"
NODE = """
from rldg_core.leftovers import ScratchFolder
from rldg_core.network import stay_on_this_machine
stay_on_this_machine()
import rclpy
from std_msgs.msg import String
rclpy.init(args=[])
node = rclpy.create_node("node")
folder = ScratchFolder()
node.create_subscription(String, "a", lambda message: print("heard", flush=True), 10)
sender = node.create_publisher(String, "a", 10)
node.create_timer(0.1, lambda: sender.publish(String(data="x")))
print(folder.path, flush=True)
rclpy.spin(node)
"""


def start() -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", NODE], env={**os.environ, "ROS_DOMAIN_ID": DOMAIN}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def segments() -> set[Path]:
    return set(SHARED_MEMORY.glob("*fast*_*"))


def test_leftovers_of_a_killed_process_are_removed_beside_a_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "MIN_AGE_S", 0.0)
    before = segments()
    dead, dead_folder = start()
    of_dead = segments() - before
    alive, alive_folder = start()
    try:
        of_alive = segments() - before - of_dead
        assert of_dead and of_alive
        assert not set(remove_leftovers()) & (of_dead | of_alive | {dead_folder, alive_folder})
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        removed = set(remove_leftovers())
        assert dead_folder in removed and not dead_folder.exists()
        assert removed & of_dead and not removed & of_alive
        assert alive_folder.is_dir()
        assert alive.stdout and alive.stdout.readline() == "heard\n"  # it still communicates
        own = {p for p in of_dead if p in segments() and "port" not in p.name}
        assert own == set()
    finally:
        for process in (dead, alive):
            process.kill()
            process.wait()
    remove_leftovers()
    assert segments() <= before
    assert not alive_folder.exists()


def test_young_and_unrelated_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "rldg_young").mkdir()
    (tmp_path / "rldg_old").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "rldg_link").symlink_to(tmp_path / "other")
    long_ago_s = time.time() - 3600
    for name in ("rldg_old", "other"):
        os.utime(tmp_path / name, (long_ago_s, long_ago_s))
    assert remove_leftovers(tmp_path, tmp_path) == [tmp_path / "rldg_old"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "rldg_link", "rldg_young"]


def test_scratch_folder_is_removed_with_its_stack() -> None:
    folder = ScratchFolder()
    assert folder.path.is_dir()
    folder.cleanup()
    assert not folder.path.exists()


def test_stack_start_is_known_while_its_starter_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks are distinguished by domain and namespace; a folder without a lock is a leftover."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    key = stack_key(97, "/rldg")
    (tmp_path / f"rldg_{key}dead").mkdir()
    assert stack_started_s(key) is None
    before_s = time.time()
    folder = ScratchFolder(key)
    assert before_s - 1 < (stack_started_s(key) or 0) < time.time() + 1
    for domain, namespace in ((98, "/rldg"), (97, "/robot1/rldg")):
        assert stack_started_s(stack_key(domain, namespace)) is None
    folder.cleanup()
    assert stack_started_s(key) is None
