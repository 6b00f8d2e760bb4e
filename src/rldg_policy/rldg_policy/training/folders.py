"""The folders of a fine-tuning: the checkpoint that it writes, and the base checkpoint that it starts from."""

from __future__ import annotations

from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, read_manifest
from rldg_policy.generalist import installed_generalists, title_of

TRAINING_FOLDER = ".training"
"""Inside the checkpoint folder until the training ends: what it resumes from."""
TRAINING_FILE = "training.json"
"""Inside a checkpoint of ours: how it was trained."""


def check_out(out: Path, backend: str, base: Path | None = None, *, resume: bool) -> None:
    """Call this before anything slow.

    Raises UserError when `out` holds no training of the back-end to resume, or when a new training could not be
    written there or would replace something other than a finished checkpoint.
    """
    if base is not None and base.resolve() == out.resolve():
        raise UserError(f"{out}: --out and --base are the same folder")
    unfinished = (out / TRAINING_FOLDER).is_dir()
    if resume and not unfinished:
        raise UserError(f"{out}: no unfinished training to resume: no {TRAINING_FOLDER} in it")
    if unfinished and not resume:
        raise UserError(f"{out}: holds an unfinished training: continue with --resume, or remove the folder")
    begun = _unfinished_kind(out / TRAINING_FOLDER, backend)
    if begun != backend:
        raise UserError(
            f"{out}: an unfinished training of {title_of(begun)}: continue with `rldg finetune {begun} --resume`"
        )
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not unfinished and not (out / MANIFEST_FILE).is_file():
        raise UserError(f"{out}: exists and is not a checkpoint of a generalist: it would be replaced")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{out}: cannot be written: {nearest} is not a folder")


def _unfinished_kind(training: Path, expected: str) -> str:
    """Back-end whose training state is in the folder: the one of which most files are there, `expected` in a tie."""
    found = {
        name: len(generalist.training_state)
        for name, generalist in installed_generalists().items()
        if generalist.training_state and all((training / file).exists() for file in generalist.training_state)
    }
    most = max(found.values(), default=0)
    return expected if found.get(expected, 0) == most else next(name for name, n in found.items() if n == most)


def check_base(base: Path | None, backend: str) -> Path:
    """Return `base`. Raises UserError that names what it is when the back-end cannot be fine-tuned from it."""
    title = title_of(backend)
    if base is None:
        raise UserError(f"base: {title} is fine-tuned from a checkpoint: name its folder")
    found = _backend_of(base, f"not a checkpoint of {title}")
    if found == backend:
        return base
    generalist = installed_generalists().get(found)
    if generalist is None:
        advice = ", which is not installed"
    elif generalist.base is None:
        advice = f": `rldg finetune {found}` takes no base"
    else:
        advice = f", which `rldg finetune {found}` takes"
    raise UserError(f"{base}: a checkpoint of {title_of(found)}{advice}")


def _backend_of(folder: Path, otherwise: str) -> str:
    """Read the back-end from the manifest, or recognise it by config.json; nothing else of the folder is checked."""
    if folder.is_file():
        raise UserError(f"{folder}: a file, {otherwise}")
    if manifest := read_manifest(folder):
        return manifest.backend
    path = folder / "config.json"
    if folder.is_dir() and not path.is_file():
        what = f"no {path.name} in it" if any(folder.iterdir()) else "an empty folder"
        raise UserError(f"{folder}: {what}, {otherwise}")
    config = read_json(path)
    if isinstance(config, dict):
        for name, generalist in installed_generalists().items():
            if generalist.recognises(config):
                return name
        if kind := config.get("model_type") or config.get("backend"):
            raise UserError(f"{folder}: of {kind!r} by its {path.name}, {otherwise}")
    raise UserError(f"{path}: {otherwise}")
