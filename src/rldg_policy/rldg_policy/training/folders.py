"""The folder that a fine-tuning writes: what it holds while the training lasts, and whether it may be written."""

from __future__ import annotations

from pathlib import Path

from rldg_core.errors import UserError
from rldg_policy.checkpoint.manifest import MANIFEST_FILE

TRAINING_FOLDER = ".training"
"""Inside the checkpoint folder until the training has ended: what it goes on from."""
TRAINING_FILE = "training.json"
"""Inside a checkpoint of ours: how it came about."""


def check_out(out: Path, base: Path | None = None, *, resume: bool) -> None:
    """Call it before anything slow. Raises UserError when there is no training to resume in `out`, or when a new one
    could not be written there or would replace something else than a finished checkpoint."""
    if base is not None and base.resolve() == out.resolve():
        raise UserError(f"{out}: --out and --base are the same folder")
    unfinished = (out / TRAINING_FOLDER).is_dir()
    if resume and not unfinished:
        raise UserError(f"{out}: no unfinished training to resume: no {TRAINING_FOLDER} in it")
    if unfinished and not resume:
        raise UserError(f"{out}: holds an unfinished training: go on with --resume, or remove the folder")
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not unfinished and not (out / MANIFEST_FILE).is_file():
        raise UserError(f"{out}: exists and is no checkpoint of a generalist: it would be replaced")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{out}: cannot be written: {nearest} is no folder")
