"""Checkpoints of a run: the learner's full state, so that a resumed run continues bit for bit.

`<run>/checkpoints/<env_steps>/` holds state.safetensors (networks, target critics, optimisers, random key,
update counter) and learner.json (configuration, counters, consumed episodes). Replay is not in it: bags are
the source of truth, replay is rebuilt from them. `<run>/specialist/` is the actor alone.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from rldg_core.errors import UserError
from rldg_core.files import read_json, sha256_hex, write_json, writing_aside
from rldg_rl.learner import Counters, EpisodeSummary, Learner
from rldg_rl.specialist_files import SavedSpecialist, write_specialist

KEPT = 2


def _named(state: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def write_checkpoint(run_dir: Path, learner: Learner) -> Path:
    """Write checkpoint and specialist atomically, keep the newest two checkpoints, return the new one's folder."""
    folder = run_dir / "checkpoints" / f"{learner.counters.env_steps:08d}"
    data = save({name: np.asarray(leaf) for name, leaf in _named(learner.state).items()})
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / "state.safetensors").write_bytes(data)
        write_json(
            aside / "learner.json",
            {
                "task_hash": learner.task.config_hash(),
                "seed": learner.seed,
                "config": learner.config.model_dump(mode="json"),
                "counters": asdict(learner.counters),
                "consumed": learner.consumed,
                "recent": [asdict(summary) for summary in learner.recent],
                "open": {name: list(counts) for name, counts in learner.open_episodes.items()},
                "sha256": sha256_hex(data),
            },
        )
    for old in _checkpoints(run_dir)[:-KEPT]:
        shutil.rmtree(old)
    write_specialist_of(learner, run_dir / "specialist")
    return folder


def write_specialist_of(learner: Learner, folder: Path) -> None:
    """Write the actor alone, as the policy node loads it."""
    task = learner.task
    saved = SavedSpecialist(
        learner.config, learner.actor_tensors, task.action.dim, learner.counters.version, task.name, task.default_object
    )
    write_specialist(folder, saved)


def _checkpoints(run_dir: Path) -> list[Path]:
    return sorted(path for path in (run_dir / "checkpoints").glob("[0-9]*") if path.is_dir())


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Folder of the newest complete checkpoint, or None."""
    return next(reversed(_checkpoints(run_dir)), None)


def restore(learner: Learner, folder: Path) -> None:
    """Put a checkpoint into a fresh learner; `Learner.rebuild` then refills its replay.

    Raises UserError naming the file when it is damaged or belongs to another configuration, task or seed.
    """
    path = folder / "learner.json"
    value = read_json(path)
    try:
        found = value["config"], value["task_hash"], value["seed"]
        counters = Counters(**value["counters"])
        consumed = {str(name): int(count) for name, count in value["consumed"].items()}
        recent = [EpisodeSummary(**summary) for summary in value["recent"]]
        open_episodes = {str(name): (int(n), int(k)) for name, (n, k) in value["open"].items()}
        digest = str(value["sha256"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a learner's checkpoint: {error!r}") from error
    wanted = learner.config.model_dump(mode="json"), learner.task.config_hash(), learner.seed
    for name, old, new in zip(("configuration", "task", "seed"), found, wanted, strict=True):
        if old != new:
            raise UserError(f"{path}: another {name} than asked for: resume with the same, or use a new run_dir")
    state = _read_state(folder / "state.safetensors", digest, learner.state)
    learner.resume(state, counters, consumed, recent, open_episodes)


def _read_state(path: Path, digest: str, template: Any) -> Any:
    try:
        data = path.read_bytes()
        tensors = load(data)
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: not valid safetensors: {error}") from error
    if sha256_hex(data) != digest:
        raise UserError(f"{path}: SHA-256 differs from the one in learner.json: file damaged")
    expected = _named(template)
    for name, leaf in expected.items():
        if name not in tensors or tensors[name].shape != leaf.shape or tensors[name].dtype != leaf.dtype:
            raise UserError(f"{path}: {name} is missing or has another shape")
    leaves = [jnp.asarray(tensors[name]) for name in expected]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(template), leaves)
