"""Reads and writes a `specialist` folder: config.json and actor.safetensors. Weights of resnet10 are not in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import read_bytes, read_json, sha256_hex, write_json, writing_aside
from rldg_core.task import Task
from rldg_rl.config import FeatureConfig, RLConfig, load, parse
from rldg_rl.features import input_spec_for
from rldg_rl.weights import Tensors, pack, policy_shapes, unpack

CONFIG_FILE = "config.json"
ACTOR_FILE = "actor.safetensors"


@dataclass(frozen=True)
class ObservationRecord:
    """The conditions of a specialist's training, which must be the same where it acts (JSON values).

    task: name; control_hz: steps per second; action_scale: [m, rad] of one unit; gripper: whether actions move one;
    target_pose_base_tcp (7,): what its proprioception is relative to; view: of its camera
    (`rldg_core.task.CameraConfig.view`), None without an image encoder.
    """

    task: str
    control_hz: float
    action_scale: tuple[float, float]
    gripper: bool
    target_pose_base_tcp: tuple[float, ...]
    view: dict[str, Any] | None

    @classmethod
    def of(cls, task: Task, features: FeatureConfig) -> ObservationRecord:
        """Return the conditions of a task and an input configuration."""
        camera = task.cameras.get(features.camera) if features.image_encoder != "none" else None
        return cls(
            task=task.name,
            control_hz=task.rates.control_hz,
            action_scale=(task.action.scale_m, task.action.scale_rad),
            gripper=task.action.gripper,
            target_pose_base_tcp=tuple(task.target_pose_base_tcp),
            view=camera.view if camera else None,
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ObservationRecord:
        """Inverse of `asdict`. Raises KeyError, TypeError, ValueError."""
        scale_m, scale_rad = value["action_scale"]
        view = value["view"]
        if view is not None and not isinstance(view, dict):
            raise ValueError(f"view: {view!r}")
        return cls(
            task=str(value["task"]),
            control_hz=float(value["control_hz"]),
            action_scale=(float(scale_m), float(scale_rad)),
            gripper=bool(value["gripper"]),
            target_pose_base_tcp=tuple(float(v) for v in value["target_pose_base_tcp"]),
            view=view,
        )

    def check(self, now: ObservationRecord, where: object) -> None:
        """Raise UserError `where: ...` naming the first condition that differs in `now`."""
        for name, was in asdict(self).items():
            found = getattr(now, name)
            if was != found:
                raise UserError(
                    f"{where}: trained with {name} {was}, this stack has {found}: run it with the task file and "
                    "control rate of its training, or train one for this stack"
                )


@dataclass(frozen=True)
class SavedSpecialist:
    """Content of a specialist folder. version: of the weights; object: the one it was trained on."""

    config: RLConfig
    tensors: Tensors
    action_dim: int
    version: int
    object: str
    made_of: ObservationRecord


def write_specialist(folder: Path, specialist: SavedSpecialist) -> None:
    """Write the folder atomically; config.json holds the SHA-256 of the actor and the hash of the specification."""
    data = pack(specialist.tensors)
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / ACTOR_FILE).write_bytes(data)
        write_json(
            aside / CONFIG_FILE,
            {
                "backend": "specialist",
                "made_of": asdict(specialist.made_of),
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
    described, path = _read_description(folder), folder / CONFIG_FILE
    config, action_dim = described.config, described.action_dim
    data = read_bytes(folder / ACTOR_FILE)
    if sha256_hex(data) != described.actor_sha256:
        raise UserError(f"{folder / ACTOR_FILE}: SHA-256 differs from the one in {CONFIG_FILE}: file damaged")
    if config.spec_hash(action_dim) != described.spec_hash:
        raise UserError(f"{path}: spec_hash does not fit its own configuration")
    shapes = policy_shapes(config.network, input_spec_for(action_dim, config.features), action_dim)
    tensors = unpack(data, shapes, str(folder / ACTOR_FILE))
    return SavedSpecialist(config, tensors, action_dim, described.version, described.object, described.made_of)


@dataclass(frozen=True)
class _Description:
    """Content of config.json."""

    config: RLConfig
    action_dim: int
    version: int
    spec_hash: str
    actor_sha256: str
    object: str
    made_of: ObservationRecord


def _read_description(folder: Path) -> _Description:
    path = folder / CONFIG_FILE
    value = read_json(path)
    try:
        config = parse(value["config"], f"{path}: config")
        action_dim, version = int(value["action_dim"]), int(value["version"])
        expected = str(value["spec_hash"]), str(value["sha256"])
        if "made_of" not in value:
            raise UserError(
                f"{path}: made_of: missing, so it cannot be compared with the stack: an older version wrote it; resume "
                "its run (`rldg train ... --out <run>`), which writes it anew from its last checkpoint"
            )
        object_name, made_of = str(value["object"]), ObservationRecord.from_json(value["made_of"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a specialist's configuration: {error!r}") from error
    return _Description(config, action_dim, version, *expected, object_name, made_of)


def check_task(specialist: SavedSpecialist | _Description, task: Task, where: object) -> None:
    """Raise UserError unless the specialist was trained for the running task."""
    if specialist.action_dim != task.action.dim:
        raise UserError(f"{where}: made for {specialist.action_dim} actions, task {task.name} has {task.action.dim}")
    specialist.made_of.check(ObservationRecord.of(task, specialist.config.features), where)


CONFIGURATIONS = (".yaml", ".yml", ".json")
"""Suffixes of a file with configuration overrides, which stands for a specialist that is still to be trained."""


def check_before_start(_backend: str, path: Path | None, task: Task) -> None:
    """Raise UserError unless config.json, or the file of overrides, is sound and of `task` (rldg_core.policy)."""
    if path is None or path.suffix in CONFIGURATIONS:
        load(path, task)
    else:
        check_task(_read_description(path), task, path)
