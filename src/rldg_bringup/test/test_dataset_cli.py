"""`rldg dataset` from the command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rldg_bringup.cli import app
from rldg_data.bags.reading import episode_info, find_bags
from rldg_data.bags.recording import write_episode
from rldg_data.testing.steps import make_episode, make_task

ROOT = Path(__file__).parents[3]


def record(folder: Path, count: int) -> Path:
    for number in range(count):
        steps = make_episode(8, seed=100 * number, image_size=64)
        write_episode(folder, steps, make_task(), wall_time="2026-11-21T00:00:00+00:00")
    return folder


def rldg(*arguments: object) -> tuple[int, str]:
    """Return (exit code, standard output)."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    bags = record(tmp_path / "run/bags", 4)
    code, out = rldg("export", bags, "--out", tmp_path / "data", "--name", "plugs", "--json")
    assert code == 0
    return Path(json.loads(out)["path"])


def test_lint_accepts_a_good_dataset_and_finds_old_statistics(dataset: Path) -> None:
    assert rldg("dataset", "lint", dataset) == (0, "")
    code, out = rldg("dataset", "lint", "--json", dataset)
    assert (code, json.loads(out)) == (0, {"path": str(dataset), "errors": 0, "warnings": 0, "findings": []})
    file = dataset / "dataset_statistics.json"
    stored = json.loads(file.read_text())
    stored["action"]["q99"][2] *= 1.5
    file.write_text(json.dumps(stored))
    code, out = rldg("dataset", "lint", dataset)
    assert code == 1
    assert out.startswith("error: statistics: dataset: ") and "action.q99" in out and out.count("\n") == 1
    code, out = rldg("dataset", "lint", "--json", dataset)
    assert code == 1
    assert [f["check"] for f in json.loads(out)["findings"]] == ["statistics"]


def test_warnings_alone_exit_with_0(tmp_path: Path) -> None:
    for number in range(2):
        steps = make_episode(8, seed=100 * number, image_size=32)
        write_episode(tmp_path / "bags", steps, make_task(), wall_time="2026-11-21T00:00:00+00:00")
    code, out = rldg("dataset", "lint", tmp_path / "bags")
    assert code == 0
    assert out.startswith("warning: image_size: dataset: ")


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_lint_of_another_folder_is_refused_with_code_2(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    command = [ROOT / ".venv/bin/rldg", "dataset", "lint", tmp_path / what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and str(tmp_path / what) in done.stderr


def test_card_is_written(dataset: Path) -> None:
    code, out = rldg("dataset", "card", dataset, "--json")
    readme = Path(json.loads(out)["path"])
    assert (code, readme) == (0, dataset / "README.md")
    assert readme.read_text().startswith("# plugs 1.0.0\n")


def test_lerobot_dataset_is_imported(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    bags = record(tmp_path / "run/bags", 2)
    export = ("export", bags, "--out", tmp_path / "data", "--name", "plugs", "--format", "lerobot", "--json")
    path = Path(json.loads(rldg(*export)[1])["path"])
    code, out = rldg("dataset", "import", path, "insertion", "--out", tmp_path / "imported", "--json")
    assert code == 0
    assert {**json.loads(out), "path": ""} == {
        "path": "",
        "episodes": 2,
        "steps": 18,
        "clipped": 0,
        "rate_hz": 10.0,
        "skipped": 0,
    }
    imported = [episode_info(bag) for bag in find_bags(tmp_path / "imported")]
    assert [(info.steps, info.instruction) for info in imported] == [(8, "insert the usb_a plug")] * 2
