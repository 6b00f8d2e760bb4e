"""Every error that ends a command or a node is one line; `--debug` adds the traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from rldg_core.errors import MAX_LINE, UserError, describe
from rldg_core.network import PROFILE, domain_id

DOMAIN = 94
NODES = (("rldg_control", "gate"), ("rldg_data", "recorder"), ("rldg_sim", "cell"))
MAIN = "from rldg_bringup.cli import main; main()"

Rldg = Callable[..., subprocess.CompletedProcess[str]]


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def one_line_of(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].isprintable() and len(lines[0]) <= MAX_LINE + 50
    return lines[0]


@pytest.mark.parametrize("domain", ["abc", "233", "-1", "1.5", "0x5", "9" * 100_000, "٣", " 1", "+1"])
def test_invalid_domain_is_refused(domain: str) -> None:
    with pytest.raises(UserError, match=r"^ROS_DOMAIN_ID: .* expected a number from 0 to 232$"):
        domain_id({"ROS_DOMAIN_ID": domain})


def test_domains_are_read_from_the_environment(rldg: Rldg) -> None:
    assert [domain_id(e) for e in ({}, {"ROS_DOMAIN_ID": ""}, {"ROS_DOMAIN_ID": "232"})] == [0, 0, 232]
    line = one_line_of(rldg("hold", ROS_DOMAIN_ID="abc"))
    assert line == "rldg: ROS_DOMAIN_ID: 'abc', expected a number from 0 to 232"


@pytest.mark.parametrize(("package", "node"), NODES)
def test_nodes_refuse_an_invalid_domain(
    package: str,
    node: str,
    restored_signals: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "233")
    monkeypatch.setattr(sys, "argv", [node])
    with pytest.raises(SystemExit) as end:
        import_module(f"{package}.nodes.{node}").main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"{node}: ROS_DOMAIN_ID: '233', expected a number from 0 to 232\n"


def test_node_in_its_own_process_refuses_an_invalid_domain() -> None:
    package, node = NODES[0]
    code = f"import sys; sys.argv = ['{node}']; from {package}.nodes.{node} import main; main()"
    line = one_line_of(run(code, ROS_DOMAIN_ID="233"))
    assert line == f"{node}: ROS_DOMAIN_ID: '233', expected a number from 0 to 232"


def test_unusable_log_folder_is_refused(rldg: Rldg, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    inside = str(file / "log")
    assert one_line_of(run(MAIN, "hold", ROS_LOG_DIR=inside)).startswith("rldg: ROS: failed to initialize")
    assert one_line_of(rldg("up", "insertion", "--log-dir", inside)).endswith(f"{inside}: Not a directory")


def test_debug_prints_the_traceback(rldg: Rldg, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for done in (
        rldg("--debug", "up", "insertion", "--log-dir", str(file / "log")),
        rldg("up", "insertion", "--log-dir", str(file / "log"), RLDG_DEBUG="1"),
    ):
        assert done.returncode == 2
        assert "Traceback" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("rldg: ")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (UserError("a: b"), "a: b", 2),
        (FileNotFoundError(2, "No such file or directory", "x.yaml"), "x.yaml: No such file or directory", 2),
        (OSError("full"), "unexpected OSError: full", 1),
        (MemoryError(), "not enough memory", 2),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
            "text that cannot be read or printed as utf-8",
            2,
        ),
        (ImportError("no x"), "cannot import a required package: no x", 2),
        (RecursionError("maximum depth"), "unexpected RecursionError: maximum depth", 1),
        (KeyError("k"), "unexpected KeyError: 'k'", 1),
        (ValueError(), "unexpected ValueError", 1),
        (ValueError("x" * 5_000_000), "unexpected ValueError: xxx", 1),
    ],
)
def test_every_exception_is_described_in_one_line(error: Exception, line: str, code: int) -> None:
    text, found = describe(error)
    assert text.startswith(line)
    assert found == code
    assert text.isprintable() and len(text) <= MAX_LINE
    if code == 1:
        assert text.endswith("RLDG_DEBUG=1 shows the traceback")


def test_command_and_its_children_stay_on_this_machine() -> None:
    code = "import os; from rldg_bringup import cli; cli.app = lambda **_: print(os.environ[V]); cli.main()"
    done = run(
        f"V = 'FASTDDS_DEFAULT_PROFILES_FILE'; {code}",
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        FASTDDS_DEFAULT_PROFILES_FILE="",
    )
    assert done.stdout.strip() == str(PROFILE)
