"""The lock of a run folder and its TensorBoard log."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import math
import os
import socket
import time
from collections.abc import Mapping
from io import BufferedWriter, FileIO
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from rldg_core.errors import UserError
from rldg_rl.learner import Learner

FLUSH_S = 10


def lock(run_dir: Path) -> FileIO:
    """Lock `<run>/learner.lock` while the returned file is open; the kernel releases it when the process ends.

    Raises UserError when another learner holds it, or when the folder cannot be written.
    """
    path = run_dir / "learner.lock"
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = file.read(32).decode(errors="replace").strip()
        file.close()
        raise UserError(f"{run_dir}: another learner (process {holder}) trains in this run folder") from error
    file.truncate()
    file.write(f"{os.getpid()}\n".encode())
    return file


def figures(learner: Learner, steps_per_s: float) -> dict[str, float]:
    """Return the values that the status topic and TensorBoard show; NaN where there is none yet."""
    counters = learner.counters
    return {
        "updates": counters.updates,
        "update_to_data": counters.updates / max(1, counters.env_steps),
        "weights_version": counters.version,
        "episodes": counters.episodes,
        "success_rate_20": learner.success_rate,
        "intervention_ratio_20": learner.intervention_ratio,
        "steps_per_s": steps_per_s,
        "replay_transitions": len(learner.online),
        "demo_transitions": len(learner.demonstrations),
        "rejected_steps": counters.rejected_steps,
        "duplicate_steps": counters.duplicate_steps,
    }


class TensorBoard:
    """Event file in `<run>/tensorboard`; the x axis is environment steps.

    A resumed run hides what was logged after its checkpoint. Events are written in the caller's thread: the writers
    of TensorBoard and tensorboardX use a thread that ends on a full disk, after which their queue blocks the caller.
    """

    def __init__(self, run_dir: Path, env_steps: int) -> None:
        """Raises UserError when the folder cannot be written."""
        folder = run_dir / "tensorboard"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._writer: RecordWriter | None = RecordWriter(_new_event_file(folder))
            self._write(Event(file_version="brain.Event:2"))
            self._write(Event(step=env_steps, session_log=SessionLog(status=SessionLog.START)))
            self._writer.flush()
        except OSError as error:
            raise UserError(f"{folder}: cannot write: {error.strerror or error}") from error
        self._flushed_s = time.monotonic()

    def write(self, values: Mapping[str, float], losses: Mapping[str, float], env_steps: int) -> str:
        """Write one point of every curve; points that are not finite are left out.

        Returns "", or one line when the file cannot be written: the log then ends, the training continues.
        """
        if self._writer is None:
            return ""
        curves = [(f"learner/{n}", v) for n, v in values.items()] + [(f"loss/{n}", v) for n, v in losses.items()]
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves if math.isfinite(value)]
        try:
            self._write(Event(step=env_steps, summary=Summary(value=points)))
            if time.monotonic() - self._flushed_s > FLUSH_S:
                self._writer.flush()
                self._flushed_s = time.monotonic()
        except OSError as error:
            self._writer = None
            return f"tensorboard: cannot write: {error.strerror or error}; the log of this run ends here"
        return ""

    def close(self) -> str:
        """Write what is buffered and close the file. Returns "" or one line when that fails."""
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            return f"tensorboard: cannot write: {error.strerror or error}"
        return ""

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        assert self._writer is not None
        self._writer.write(event.SerializeToString())


def _new_event_file(folder: Path) -> BufferedWriter:
    """Open an event file under the name that TensorBoard looks for; a restart never writes into an older one."""
    stem = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
    for number in itertools.count():
        with contextlib.suppress(FileExistsError):
            return (folder / f"{stem}.{number}").open("xb")
    raise AssertionError
