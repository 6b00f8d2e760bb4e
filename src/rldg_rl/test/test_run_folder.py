"""Lock and TensorBoard log of a run folder."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rl_samples import insertion, random_episodes, small
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from rldg_core.errors import UserError
from rldg_rl.learner import Learner
from rldg_rl.run_folder import TensorBoard, figures, lock


def events(run_dir: Path) -> list[Event]:
    """Return every event of the folder as TensorBoard reads it, with its checksums."""
    paths = sorted((run_dir / "tensorboard").iterdir())
    return [event for path in paths for event in LegacyEventFileLoader(str(path)).Load()]


def test_run_folder_accepts_one_learner(tmp_path: Path) -> None:
    held = lock(tmp_path / "run")
    with pytest.raises(UserError, match=rf"run: another learner \(process {os.getpid()}\) trains in this run folder"):
        lock(tmp_path / "run")
    held.close()
    lock(tmp_path / "run").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        lock(tmp_path / "file")


def test_log_holds_the_values_of_the_status(tmp_path: Path) -> None:
    learner = Learner(small(), insertion(), 0)
    board = TensorBoard(tmp_path, 0)
    assert board.write(figures(learner, 0.0), {}, 0) == ""
    for step in random_episodes(2, 9):
        learner.consume(step)
    assert board.write(figures(learner, 12.5), {**learner.losses, "late": math.nan}, 18) == ""
    assert board.close() == ""
    last = {value.tag: value.simple_value for value in events(tmp_path)[-1].summary.value}
    assert events(tmp_path)[-1].step == 18
    assert last["learner/success_rate_20"] == 0.5
    assert last["learner/steps_per_s"] == 12.5
    assert last["learner/update_to_data"] <= 2.0
    assert "loss/critic_loss" in last
    assert "loss/late" not in last


def test_full_disk_ends_only_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = TensorBoard(tmp_path, 7)

    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(board._writer, "write", full)
    assert board.write({"a": 1.0}, {}, 8).startswith("tensorboard: cannot write: No space left on device")
    assert board.write({"a": 1.0}, {}, 9) == ""
    assert board.close() == ""
    assert [event.step for event in events(tmp_path)] == [0, 7]  # the event with the file version has no step


def test_restart_writes_its_own_event_file(tmp_path: Path) -> None:
    for _ in range(2):
        assert TensorBoard(tmp_path, 0).close() == ""
    assert [event.step for event in events(tmp_path)] == [0, 0] * 2


@pytest.mark.parametrize("module", ["nodes.learner", "nodes.reward", "specialist"])
def test_torch_is_not_imported(module: str) -> None:
    """Importing torch doubles the start time of a node."""
    names = '("torch", "tensorflow", "tensorboardX")'
    code = f"import sys, rldg_rl.{module}; sys.exit(', '.join(name for name in {names} if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
