"""The specialist back-end: the learner's actor behind the Policy interface (entry point `specialist`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.policy import PolicySpec
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_rl import config as configuration
from rldg_rl.features import feature_dim, feature_function
from rldg_rl.inference import choose_action
from rldg_rl.specialist_files import read_specialist
from rldg_rl.weights import Tensors, actor_shapes, unpack


class SpecialistPolicy:
    """Policy and TrainablePolicy (rldg_core.policy).

    path: a `specialist` folder (config.json + actor.safetensors); a .yaml or .json file with configuration
    overrides (the learner's `config_file`), or None for the preset `connector`: both wait for weights from the learner,
    and `act` before the first `update_weights` raises UserError.
    explore: sample actions (training); otherwise the mode (evaluation).
    """

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        self._task = task
        self._explore = explore
        self._tensors: Tensors | None = None
        self._version = 0
        if path is not None and path.suffix not in (".yaml", ".yml", ".json"):
            saved = read_specialist(path)
            if saved.action_dim != task.action.dim:
                raise UserError(f"{path}: made for {saved.action_dim} actions, task {task.name} has {task.action.dim}")
            self._config, self._tensors, self._version = saved.config, saved.tensors, saved.version
        else:
            self._config = configuration.load(path)
        features = self._config.features
        if features.image_encoder != "none" and features.camera not in task.cameras:
            raise UserError(f"task {task.name}: no camera {features.camera!r}, which the specialist needs")
        self._features = feature_function(task, features)
        self._shapes = actor_shapes(self._config.network, feature_dim(features), task.action.dim)
        self._rng = np.random.default_rng(0)

    @property
    def spec(self) -> PolicySpec:
        """What it needs and delivers; `version` follows `update_weights`."""
        images = self._config.features.image_encoder != "none"
        return PolicySpec(
            cameras=(self._config.features.camera,) if images else (),
            image_size=128 if images else 0,
            window=1,
            action_dim=self._task.action.dim,
            horizon=1,
            rate_hz=self._task.rates.control_hz,
            version=self._version,
        )

    @property
    def spec_hash(self) -> str:
        """Hash that weights must carry."""
        return self._config.spec_hash(self._task.action.dim)

    @property
    def ready(self) -> bool:
        """Whether it holds weights."""
        return self._tensors is not None

    def warm_up(self) -> None:
        """Encode one made-up image (compiles the encoder); without an encoder there is nothing to compile."""
        if self._config.features.image_encoder != "none":
            from rldg_rl.encoder import warm_up

            warm_up()

    def reset(self, instruction: str, seed: int) -> None:
        """Start an episode: exploration depends on `seed` alone. The instruction is not used: one task."""
        self._rng = np.random.default_rng(derive_seed(seed, "specialist"))

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """(1, A) in [-1, 1]. Raises UserError before the first weights, ValueError on a malformed observation."""
        if self._tensors is None:
            raise UserError("specialist: no weights yet: start the learner or load a specialist folder")
        rng = self._rng if self._explore else None
        return choose_action(self._tensors, self._features(observation), self._config.network, rng)[None]

    def update_weights(self, data: bytes, version: int) -> None:
        """Replace the actor. Raises UserError when the tensors do not fit; the old actor then stays."""
        self._tensors = unpack(data, self._shapes, f"policy weights version {version}")
        self._version = version

    def close(self) -> None:
        """Nothing is held open."""
