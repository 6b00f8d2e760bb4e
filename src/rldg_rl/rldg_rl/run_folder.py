"""What a learner keeps beside its checkpoints: the lock of its run folder and the TensorBoard log."""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from tensorboardX import SummaryWriter

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
    """`<run>/tensorboard`, by environment steps. A resumed run hides what was logged after its checkpoint."""

    def __init__(self, run_dir: Path, env_steps: int) -> None:
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), flush_secs=FLUSH_S, purge_step=env_steps or None)

    def write(self, values: Mapping[str, float], losses: Mapping[str, float], env_steps: int) -> None:
        """Write one point of every curve."""
        for group, curves in (("learner", values), ("loss", losses)):
            for name, value in curves.items():
                if math.isfinite(value):
                    self._writer.add_scalar(f"{group}/{name}", value, env_steps)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
