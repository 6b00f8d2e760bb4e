"""`rldg` refuses bad input with one line and exit code 2."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rldg_bringup import client

DOMAIN = 60

Rldg = Callable[..., subprocess.CompletedProcess[str]]


def test_no_gl_is_one_line(rldg: Rldg, tmp_path: Path) -> None:
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
def test_bad_input_is_one_line(rldg: Rldg, tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    (tmp_path / "bad.yaml").write_text("name: bad\nspeed: 3\n")
    done = rldg(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert_one_line(done.returncode, done.stderr, expected)


def test_a_command_without_a_stack_waits_for_one_and_ends(rldg: Rldg, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RUNNING_TIMEOUT_S", 1.0)
    done = rldg("policy", "list")
    assert_one_line(done.returncode, done.stderr, "service policy/list: no answer within 1 s; is the stack running?")


def test_a_process_of_its_own_ends_in_the_same_way(start_rldg: Callable[..., psutil.Popen], tmp_path: Path) -> None:
    process = start_rldg("up", "insertion", f"task:={tmp_path}/nowhere.yaml")
    _, errors = process.communicate(timeout=60)
    assert_one_line(process.returncode, errors, "nowhere.yaml")


def assert_one_line(code: int, errors: str, expected: str) -> None:
    assert code == 2, errors
    (line,) = [text for text in errors.splitlines() if text.startswith("rldg: ")]
    assert expected in line
    assert "Traceback" not in errors
