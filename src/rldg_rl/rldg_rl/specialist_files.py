"""The `specialist` folder: config.json + actor.safetensors. All that a policy node needs, but resnet10's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex, write_json, writing_aside
from rldg_rl.config import RLConfig, parse
from rldg_rl.features import input_spec_for
from rldg_rl.weights import Tensors, pack, policy_shapes, unpack

CONFIG_FILE = "config.json"
ACTOR_FILE = "actor.safetensors"


@dataclass(frozen=True)
class SavedSpecialist:
    """What acting needs and what it fits. version: weights version; task, object: what it was trained on."""

    config: RLConfig
    tensors: Tensors
    action_dim: int
    version: int
    task: str
    object: str


def write_specialist(folder: Path, specialist: SavedSpecialist) -> None:
    """Write the folder atomically; config.json carries the SHA-256 of the actor and the specification's hash."""
    data = pack(specialist.tensors)
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / ACTOR_FILE).write_bytes(data)
        write_json(
            aside / CONFIG_FILE,
            {
                "backend": "specialist",
                "task": specialist.task,
                "object": specialist.object,
                "version": specialist.version,
                "action_dim": specialist.action_dim,
                "spec_hash": specialist.config.spec_hash(specialist.action_dim),
                "sha256": sha256_hex(data),
                "config": specialist.config.model_dump(mode="json"),
            },
        )


def read_specialist(folder: Path) -> SavedSpecialist:
    """Read and verify. Raises UserError naming the file on anything missing, altered or of another specification."""
    path = folder / CONFIG_FILE
    value = read_json(path)
    try:
        config = parse(value["config"], f"{path}: config")
        action_dim, version = int(value["action_dim"]), int(value["version"])
        expected = str(value["spec_hash"]), str(value["sha256"])
        task, object_name = str(value["task"]), str(value["object"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a specialist's configuration: {error!r}") from error
    data = read_bytes(folder / ACTOR_FILE)
    if sha256_hex(data) != expected[1]:
        raise UserError(f"{folder / ACTOR_FILE}: SHA-256 differs from the one in {CONFIG_FILE}: file damaged")
    if config.spec_hash(action_dim) != expected[0]:
        raise UserError(f"{path}: spec_hash does not fit its own configuration")
    shapes = policy_shapes(config.network, input_spec_for(action_dim, config.features), action_dim)
    tensors = unpack(data, shapes, str(folder / ACTOR_FILE))
    return SavedSpecialist(config, tensors, action_dim, version, task, object_name)
