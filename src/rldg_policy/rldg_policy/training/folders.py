"""The folders of a fine-tuning: what it writes and whether it may, and whether a base is one of the right kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, Backend, read_manifest

TRAINING_FOLDER = ".training"
"""Inside the checkpoint folder until the training has ended: what it goes on from."""
TRAINING_FILE = "training.json"
"""Inside a checkpoint of ours: how it came about."""
STATES: dict[Backend, str] = {"compact": "state", "openvla": "state.json", "octo": "state.safetensors"}
"""In TRAINING_FOLDER, what tells whose it is: the first that is there, since OpenVLA has what Octo has, too."""
NAMES: dict[Backend, str] = {"compact": "the compact generalist", "openvla": "OpenVLA", "octo": "Octo"}


def check_out(out: Path, backend: Backend, base: Path | None = None, *, resume: bool) -> None:
    """Call it before anything slow. Raises UserError when there is no training of the back-end to resume in `out`, or
    when a new one could not be written there or would replace something else than a finished checkpoint."""
    if base is not None and base.resolve() == out.resolve():
        raise UserError(f"{out}: --out and --base are the same folder")
    unfinished = (out / TRAINING_FOLDER).is_dir()
    if resume and not unfinished:
        raise UserError(f"{out}: no unfinished training to resume: no {TRAINING_FOLDER} in it")
    if unfinished and not resume:
        raise UserError(f"{out}: holds an unfinished training: go on with --resume, or remove the folder")
    begun = next((of for of, state in STATES.items() if (out / TRAINING_FOLDER / state).exists()), backend)
    if begun != backend:
        raise UserError(f"{out}: an unfinished training of {NAMES[begun]}: go on with `rldg finetune {begun} --resume`")
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not unfinished and not (out / MANIFEST_FILE).is_file():
        raise UserError(f"{out}: exists and is no checkpoint of a generalist: it would be replaced")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UserError(f"{out}: cannot be written: {nearest} is no folder")


def check_base(base: Path | None, backend: Literal["openvla", "octo"]) -> Path:
    """`base`. Raises UserError when it is not what the back-end fine-tunes: it says what it is and what takes it."""
    if base is None:
        raise UserError(f"base: {NAMES[backend]} is fine-tuned from a checkpoint: name its folder")
    found = _backend_of(base, f"not a checkpoint of {NAMES[backend]}")
    if found == "compact":
        raise UserError(f"{base}: a checkpoint of {NAMES[found]}: `rldg finetune compact` takes no base")
    if found != backend:
        raise UserError(f"{base}: a checkpoint of {NAMES[found]}, which `rldg finetune {found}` takes")
    return base


def _backend_of(folder: Path, otherwise: str) -> Backend:
    """By the manifest where there is one, else by config.json; whether the rest is there is for the reader to find."""
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
        if config.get("model_type") == "openvla":
            return "openvla"
        if str(config.get("format")).startswith("rldg-compact"):
            return "compact"
        if isinstance(config.get("model"), dict) and "observation_tokenizers" in config["model"]:
            return "octo"
        if kind := config.get("model_type") or config.get("backend"):
            raise UserError(f"{folder}: of {kind!r} by its {path.name}, {otherwise}")
    raise UserError(f"{path}: {otherwise}")
