"""What a learner keeps beside its checkpoints: the lock of its run folder and the TensorBoard log."""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from rldg_core.errors import UserError
from rldg_rl.learner import Learner

FLUSH_S = 10


def lock(run_dir: Path) -> FileIO:
    """Hold `<run>/learner.lock` for as long as the returned file is open; the kernel frees it when a process dies.

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
    """What status topic and TensorBoard show; NaN where there is nothing to show yet."""
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
    """`<run>/tensorboard`, by environment steps. A resumed run hides what was logged after its checkpoint.

    Writes in the caller's thread: tensorboardX's own writer thread dies of a full disk, and its queue then blocks.
    """

    def __init__(self, run_dir: Path, env_steps: int) -> None:
        """Raises UserError when the folder cannot be written."""
        folder = run_dir / "tensorboard"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # tensorboardX names files by the second: the process makes a restart within one a file of its own.
            self._writer: EventsWriter | None = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            self._writer.write_event(Event(step=env_steps, session_log=SessionLog(status=SessionLog.START)))
            self._writer.flush()
        except OSError as error:
            raise UserError(f"{folder}: cannot write: {error.strerror or error}") from error
        self._flushed_s = time.monotonic()

    def write(self, values: Mapping[str, float], losses: Mapping[str, float], env_steps: int) -> str:
        """Write one point of every curve. Returns "", or one line when the disk is full: the log then ends."""
        if self._writer is None:
            return ""
        curves = [(f"learner/{n}", v) for n, v in values.items()] + [(f"loss/{n}", v) for n, v in losses.items()]
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in curves if math.isfinite(value)]
        try:
            self._writer.write_event(Event(wall_time=time.time(), step=env_steps, summary=Summary(value=points)))
            if time.monotonic() - self._flushed_s > FLUSH_S:
                self._writer.flush()
                self._flushed_s = time.monotonic()
        except OSError as error:
            self._writer = None
            return f"tensorboard: cannot write: {error.strerror or error}; the log of this run ends here"
        return ""

    def close(self) -> str:
        """Write what is buffered. Returns "" or one line."""
        try:
            if self._writer is not None:
                self._writer.close()
        except OSError as error:
            return f"tensorboard: cannot write: {error.strerror or error}"
        return ""
