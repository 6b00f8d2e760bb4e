"""One training run, whatever the generalist: its folders, its checks, and the report that it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import BaseModel

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_policy.checkpoint.manifest import MANIFEST_FILE, read_manifest
from rldg_policy.generalist import installed_generalists, title_of
from rldg_policy.training.dataset import TrainingSet

TRAINING_FOLDER = ".training"
"""In the checkpoint folder until the training ends: the state that it resumes from."""
TRAINING_FILE = "training.json"
"""In a checkpoint written here: how it was trained."""


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


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED", "bad_alloc")
"""Messages of torch (CUDA, CPU) and XLA, which have no common exception type for it."""


def check_loss(step: int, loss: float, last_checkpoint: Path | None) -> None:
    """Raise UserError when the loss is NaN or infinite. Call this before the weights of `step` are saved."""
    if math.isfinite(loss):
        return
    kept = f"last good checkpoint: {last_checkpoint}" if last_checkpoint else "no checkpoint was written before"
    raise UserError(f"step {step}: loss is {loss}: lower the learning rate; {kept}")


def training_identity(
    data: TrainingSet, config: BaseModel, seed: int, *, free: set[str], **more: Any
) -> dict[str, Any]:
    """Return what must not change at a resumption: seed, data, `more`, and the configuration except `free`."""
    fixed = config.model_dump(mode="json", exclude=free)
    return {"seed": seed, "dataset": data.sha256, "camera": data.camera, **more, **fixed}


def check_same_training(where: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UserError naming the first item of `training_identity` that differs from the training to resume."""
    for name, value in now.items():
        if before.get(name) == value:
            continue
        if name == "dataset":
            raise UserError(
                f"{where}: cannot resume: the dataset is not the one that this training started with (sha256 "
                f"{str(before.get(name))[:12]}, now {value[:12]}): images, actions or instructions differ; restore the "
                "old dataset, or start again in another --out"
            )
        raise UserError(f"{where}: cannot resume: {name} was {before.get(name)}, now it is {value}")


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn the out-of-memory errors of all libraries into UserError `out of memory: <advice>`."""
    try:
        yield
    except MemoryError as error:
        raise UserError(f"out of memory: {advice}") from error
    except RuntimeError as error:
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        raise UserError(f"out of memory: {advice}") from error


CURVE_EVERY = 50
"""Optimiser steps per point of a learning curve."""


def curve(values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean of every 50 steps; the last mean may be of fewer."""
    return tuple(fmean(values[begin : begin + CURVE_EVERY]) for begin in range(0, len(values), CURVE_EVERY))


def training_report(
    result: Mapping[str, Any], dataset: Path, sha256: str, base: Path | None, seed: int, config: BaseModel
) -> dict[str, Any]:
    """Return the content of training.json. result: fields of `finetune`'s result; sha256: of the dataset."""
    return {
        **result,
        "checkpoint": str(result["checkpoint"]),
        "dataset": str(dataset),
        "dataset_sha256": sha256,
        "base": None if base is None else str(base),
        "seed": seed,
        "config": config.model_dump(mode="json"),
    }
