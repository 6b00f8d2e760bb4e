"""Checkpoints of a run: the learner's full state, so that a resumed run continues bit for bit.

`<run>/checkpoints/<env_steps>/` holds state.safetensors (networks, target critics, optimisers, random key,
update counter), learner.json (configuration, counters, consumed Steps by episode) and the newest weights that were
sent to the policy. Replay is not saved: it is rebuilt from the bags. `<run>/specialist/` holds what a policy needs.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex, write_json, writing_aside
from rldg_core.policy_checks import check_finite
from rldg_rl.learner import ISSUED_KEPT, RECENT_EPISODES, Counters, EpisodeSummary, Learner, Progress, Weights
from rldg_rl.specialist_files import ObservationRecord, SavedSpecialist, write_specialist
from rldg_rl.step_reader import ConsumedSteps, EpisodeChecksums

KEPT = 2
FOLDER = "checkpoints"
STATE_FILE = "state.safetensors"
LEARNER_FILE = "learner.json"


def _named(state: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _weights_file(version: int) -> str:
    return f"weights_{version:06d}.safetensors"


def write_checkpoint(run_dir: Path, learner: Learner) -> Path:
    """Write checkpoint and specialist atomically, keep the newest two checkpoints, return the folder of the new one.

    Raises UserError when the disk is full or the state is not finite; the older checkpoints then stay.
    """
    progress = learner.progress
    folder = run_dir / FOLDER / f"{progress.counters.env_steps:08d}"
    state = {name: np.asarray(leaf) for name, leaf in _named(learner.state).items()}
    check_finite(f"{folder}: the training has diverged, no checkpoint is written", state.items())
    data = save(state)
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / STATE_FILE).write_bytes(data)
        for weights in progress.issued:
            (aside / _weights_file(weights.version)).write_bytes(weights.data)
        write_json(
            aside / LEARNER_FILE,
            {
                "task_hash": learner.task.config_hash(),
                "seed": learner.seed,
                "spec_hash": learner.spec_hash,
                "config": learner.config.model_dump(mode="json"),
                "counters": asdict(progress.counters),
                "consumed": progress.seen.to_json(),
                "content": progress.content.to_json(),
                "earlier_content": learner.earlier_content.to_json(),
                "recent": [asdict(summary) for summary in progress.recent],
                "open": {name: list(counts) for name, counts in progress.open_episodes.items()},
                "issued": [[w.version, w.valid_from_step, w.sha256] for w in progress.issued],
                "sha256": sha256_hex(data),
            },
        )
    for old in checkpoints(run_dir)[:-KEPT]:
        remove_checkpoint(old)
    write_specialist_of(learner, run_dir / "specialist")
    return folder


def write_specialist_of(learner: Learner, folder: Path) -> None:
    """Write the folder that a policy node loads: actor and configuration."""
    task = learner.task
    made_of = ObservationRecord.of(task, learner.config.features)
    version, tensors = learner.counters.version, learner.actor_tensors
    check_finite(f"{folder}: not written, the training has diverged", tensors.items())
    write_specialist(
        folder, SavedSpecialist(learner.config, tensors, task.action.dim, version, task.default_object, made_of)
    )


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of the complete checkpoints, oldest first."""
    return sorted(path for path in (run_dir / FOLDER).glob("[0-9]*") if path.is_dir())


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint. A process that is killed meanwhile leaves a hidden folder, never half a checkpoint."""
    hidden = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def remove_partials(run_dir: Path) -> None:
    """Remove incomplete files and folders of a learner that was killed."""
    for folder in (run_dir / FOLDER, run_dir):
        for partial in folder.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(missing_ok=True)


def consumed_episodes(folder: Path) -> dict[str, int]:
    """Return the online episodes of a checkpoint, in order of arrival -> number of Steps consumed of each."""
    seen = _parse(folder / LEARNER_FILE, lambda value: ConsumedSteps.from_json(value["consumed"]))
    return {name: seen.count(name) for name in seen.to_json()}


def restore(learner: Learner, folder: Path) -> None:
    """Set state and progress of a learner from a checkpoint; `rldg_rl.recordings` refills replay.

    The counts of demonstrations and earlier runs, which are loaded at each start, are kept. Raises UserError naming
    the file when the checkpoint is damaged or of another architecture, configuration, task or seed, and when a
    demonstration is missing or its content has changed.
    """
    path = folder / LEARNER_FILE
    keys = ("config", "spec_hash", "task_hash", "seed", "sha256")
    found = _parse(path, lambda value: [value[key] for key in keys])
    now = learner.config.model_dump(mode="json"), learner.spec_hash, learner.task.config_hash(), learner.seed
    for name, old, new in zip(("configuration", "encoder", "task", "seed"), found, now, strict=False):
        if old != new:
            detail = difference(found[0], now[0]) if name == "configuration" else f"{old} instead of {new}"
            raise UserError(
                f"{path}: another {name} than asked for ({detail}): resume with the same, or use a new run_dir"
            )
    progress = _parse(path, lambda value: _progress(value, folder))
    earlier = _parse(path, lambda value: EpisodeChecksums.from_json(value.get("earlier_content", {})))
    # Demonstrations may be added, but those learned from must be present and unchanged. Checkpoints of older versions
    # do not list them.
    earlier.check(learner.earlier_content, f"{path}: resuming")
    progress.counters.demo_transitions = learner.counters.demo_transitions
    progress.counters.earlier_transitions = learner.counters.earlier_transitions
    state = _read_state(folder / STATE_FILE, str(found[-1]), learner.state)
    learner.state, learner.progress = state, progress


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """Return the first key in which two configurations differ, as `network.hidden [16, 16] instead of [32, 32]`."""
    for key in [*new, *(k for k in old if k not in new)]:
        was, now = old.get(key), new.get(key)
        if was != now:
            if isinstance(was, Mapping) and isinstance(now, Mapping):
                return difference(was, now, f"{prefix}{key}.")
            return f"{prefix}{key} {was} instead of {now}"
    return "no difference"


def _parse(path: Path, make: Any) -> Any:
    value = read_json(path)
    try:
        return make(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a learner's checkpoint: {error!r}") from error


def _progress(value: Mapping[str, Any], folder: Path) -> Progress:
    return Progress(
        Counters(**value["counters"]),
        ConsumedSteps.from_json(value["consumed"]),
        EpisodeChecksums.from_json(value.get("content", {})),
        deque((EpisodeSummary(**summary) for summary in value["recent"]), RECENT_EPISODES),
        {str(name): (int(steps), int(k)) for name, (steps, k) in value["open"].items()},
        deque((_read_weights(folder, *issued) for issued in value["issued"]), ISSUED_KEPT),
    )


def _read_weights(folder: Path, version: int, valid_from_step: int, digest: str) -> Weights:
    path = folder / _weights_file(version)
    data = read_bytes(path)
    if sha256_hex(data) != digest:
        raise UserError(f"{path}: SHA-256 differs from the one in {LEARNER_FILE}: file damaged")
    return Weights(data, digest, version, valid_from_step)


def _read_state(path: Path, digest: str, template: Any) -> Any:
    data = read_bytes(path)
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise UserError(f"{path}: not valid safetensors: {error}") from error
    if sha256_hex(data) != digest:
        raise UserError(f"{path}: SHA-256 differs from the one in {LEARNER_FILE}: file damaged")
    expected = _named(template)
    for name, leaf in expected.items():
        if name not in tensors or tensors[name].shape != leaf.shape or tensors[name].dtype != leaf.dtype:
            raise UserError(f"{path}: {name} is missing or has another shape: a checkpoint of another architecture")
    check_finite(path, tensors.items())
    leaves = [jnp.asarray(tensors[name]) for name in expected]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)
