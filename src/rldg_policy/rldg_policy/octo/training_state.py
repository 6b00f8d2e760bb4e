"""What a training of Octo writes: the newest checkpoint, and the training state that it resumes from.

The training state is one file (trained parameters, moments and counters as safetensors, the rest as JSON), replaced
atomically. It is written before the checkpoint that follows from it, so that a run that is killed between any two
operations resumes without loss. The checkpoint can be served from the first save on.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.flax import load_file
from safetensors.numpy import save_file

from rldg_core.errors import UserError
from rldg_core.files import check_regular, fsync, parse_json, replace_folder, write_json, writing_aside
from rldg_core.policy_checks import check_finite
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Manifest
from rldg_policy.octo.checkpoint import OctoCheckpoint, write_checkpoint
from rldg_policy.training.run import TRAINING_FILE, TRAINING_FOLDER

STATE_FILE = "state.safetensors"
_META = "rldg"


def write_state(folder: Path, state: Any, meta: dict[str, Any]) -> None:
    """Write the pytree of arrays `state` and `meta` (JSON) to folder/state.safetensors."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    tensors = {jax.tree_util.keystr(path): np.asarray(value, order="C") for path, value in leaves}
    with writing_aside(folder / STATE_FILE) as aside:
        try:
            save_file(tensors, aside, metadata={_META: json.dumps(meta)})
        except SafetensorError as error:  # raised when the disk is full
            raise OSError(" ".join(str(error).split())) from error


def read_state(folder: Path, template: Any) -> tuple[Any, dict[str, Any]]:
    """Read (state, meta). template: a pytree of arrays with the same structure, shapes and dtypes.

    Raises UserError when the file is missing, damaged, or of a training with other parameters.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise UserError(f"{path}: no training state to resume")
    check_regular(path)
    try:
        with safe_open(path, framework="flax") as file:  # bounded: checked above
            meta = parse_json((file.metadata() or {})[_META], f"{path}: {_META}")
        tensors = load_file(path)  # bounded: checked above
    except (SafetensorError, LookupError, ValueError, OSError) as error:
        raise UserError(f"{path}: damaged training state: {' '.join(str(error).split())[:200]}") from error
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    expected = {jax.tree_util.keystr(key): value for key, value in leaves}
    for name, value in expected.items():
        found = tensors.get(name)
        if found is None or found.shape != value.shape or found.dtype != value.dtype:
            raise UserError(f"{path}: {name}: not of this training: other parameters, or another base checkpoint")
    if len(tensors) != len(expected):
        raise UserError(f"{path}: holds {len(tensors)} arrays, this training has {len(expected)}")
    check_finite(path, ((name, np.asarray(value)) for name, value in tensors.items()))
    return jax.tree_util.tree_unflatten(structure, [tensors[name] for name in expected]), meta


class CheckpointFolder:
    """Checkpoint folder of a training, checked with `check_out`. has_state: it has one to resume from."""

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        self._training = path / TRAINING_FOLDER
        if resume:
            _remove([item for item in self._training.iterdir() if item.name != STATE_FILE])
        self.has_state = (self._training / STATE_FILE).is_file()

    def read_state(self, template: Any) -> tuple[Any, dict[str, Any]]:
        """Read the training state; see `read_state`."""
        return read_state(self._training, template)

    def write_state(self, state: Any, meta: dict[str, Any]) -> None:
        """Write the training state; see `write_state`."""
        write_state(self._training, state, meta)

    def publish(self, checkpoint: OctoCheckpoint, statistics_json: bytes, manifest: Manifest) -> None:
        """Replace the checkpoint.

        The new weights are added before the old ones are removed, and the manifest is replaced last, so that a
        concurrent reader finds either step complete.
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
        if (self.path / step).is_dir():  # of the save that a resumed training started from
            replace_folder(staged / step, self.path / step)
        else:
            os.rename(staged / step, self.path / step)
        os.replace(staged / MANIFEST_FILE, self.path / MANIFEST_FILE)
        fsync(self.path)
        _remove([staged, *(item for item in self.path.iterdir() if item.name not in kept)])

    def finish(self, training: dict[str, Any]) -> None:
        """Write training.json and remove the training state."""
        write_json(self.path / TRAINING_FILE, training)
        _remove([self._training])


def _remove(items: list[Path]) -> None:
    for item in items:
        if item.is_dir():
            shutil.rmtree(item)
        else:
            item.unlink(missing_ok=True)
