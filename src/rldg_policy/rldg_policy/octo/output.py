"""The folder that fine-tuning writes: the newest checkpoint, and beside it what the training goes on from.

The folder can be served from the first save on. The training state is written first and the checkpoint follows
from it, so that a run that is killed between any two operations is taken up without loss.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rldg_core.files import fsync, replace_folder, write_json
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest
from rldg_policy.octo.checkpoint import OctoCheckpoint, write_checkpoint
from rldg_policy.octo.resume import STATE_FILE, read_state, write_state
from rldg_policy.training.folders import TRAINING_FILE, TRAINING_FOLDER


class Output:
    """A folder that `check_out` has passed. has_state: there is a training state to go on from."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self._training = path / TRAINING_FOLDER
        if resume:
            _remove([item for item in self._training.iterdir() if item.name != STATE_FILE])
        self.has_state = (self._training / STATE_FILE).is_file()

    def read_state(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """See resume.read_state."""
        return read_state(self._training, template)

    def write_state(self, state: Any, meta: dict[str, Any]) -> None:
        """See resume.write_state."""
        write_state(self._training, state, meta)

    def publish(self, checkpoint: OctoCheckpoint, statistics_json: bytes, manifest: Manifest) -> None:
        """Put a checkpoint in the place of the one that is there.

        Weights of another step appear before the others go, and the manifest names them last: whoever reads
        meanwhile finds one step or the other, whole.
        """
        staged = self._training / "checkpoint"
        write_checkpoint(staged, checkpoint, statistics_json, manifest)
        step = str(manifest.version)
        kept = {TRAINING_FOLDER, *(item.name for item in staged.iterdir())}
        shared = [file.relative_to(staged) for file in staged.rglob("*") if file.is_file()]
        for file in sorted(shared):
            if file.parts[0] not in (step, MANIFEST_FILE):
                (self.path / file).parent.mkdir(exist_ok=True)
                os.replace(staged / file, self.path / file)
        if (self.path / step).is_dir():  # of the save that a resumed training went on from
            replace_folder(staged / step, self.path / step)
        else:
            os.rename(staged / step, self.path / step)
        os.replace(staged / MANIFEST_FILE, self.path / MANIFEST_FILE)
        fsync(self.path)
        _remove([staged, *(item for item in self.path.iterdir() if item.name not in kept)])

    def finish(self, training: dict[str, Any]) -> None:
        """Write training.json and remove what only the training needs."""
        write_json(self.path / TRAINING_FILE, training)
        _remove([self._training])


def _remove(items: list[Path]) -> None:
    for item in items:
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink(missing_ok=True)
