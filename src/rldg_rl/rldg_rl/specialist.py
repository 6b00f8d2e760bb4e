"""The policy back-end `specialist` (an entry point): an actor that the learner trains."""

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
from rldg_rl.features import IMAGE_SIZE, input_spec, policy_inputs
from rldg_rl.inference import choose_action
from rldg_rl.inputs import Inputs
from rldg_rl.specialist_files import CONFIGURATIONS, check_task, read_specialist
from rldg_rl.weights import Tensors, policy_shapes, unpack


class SpecialistPolicy:
    """Policy and TrainablePolicy (rldg_core.policy).

    path: a `specialist` folder (config.json + actor.safetensors); a .yaml or .json file with configuration
    overrides (the learner's `config_file`), or None for the preset of the task's kind: both wait for weights from
    the learner, and `act` before the first `update_weights` raises UserError.
    explore: sample actions (training); otherwise the mode (evaluation).
    """

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        self._task = task
        self._explore = explore
        self._tensors: Tensors | None = None
        self._version = 0
        if path is not None and path.suffix not in CONFIGURATIONS:
            saved = read_specialist(path)
            check_task(saved, task, path)
            self._config, self._tensors, self._version = saved.config, saved.tensors, saved.version
        else:
            self._config = configuration.load(path, task)
        features = self._config.features
        self._inputs = policy_inputs(task, features)
        self._input_spec = input_spec(task, features)
        self._shapes = policy_shapes(self._config.network, self._input_spec, task.action.dim)
        self._rng = np.random.default_rng(0)

    @property
    def spec(self) -> PolicySpec:
        """Expected input and output; `version` is that of the last `update_weights`."""
        images = self._config.features.image_encoder != "none"
        return PolicySpec(
            cameras=(self._config.features.camera,) if images else (),
            image_size=IMAGE_SIZE if images else 0,
            window=1,
            action_dim=self._task.action.dim,
            horizon=1,
            rate_hz=self._task.rates.control_hz,
            version=self._version,
        )

    @property
    def spec_hash(self) -> str:
        """Hash of the specification that weights must have."""
        return self._config.spec_hash(self._task.action.dim)

    @property
    def ready(self) -> bool:
        """Whether weights have been loaded."""
        return self._tensors is not None

    def warm_up(self) -> None:
        """Compile the image encoder, if there is one, by a call with zeros."""
        features, spec = self._config.features, self._input_spec
        if features.frozen_encoder:
            from rldg_rl.encoders.loading import load_encoder

            blank = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
            load_encoder(features.image_encoder, features.encoder_weights).encode(blank)
        elif spec.image_shape is not None:
            zeros = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}
            blank_inputs = Inputs(np.zeros(spec.state_dim, np.float32), np.zeros(spec.image_shape, np.uint8))
            choose_action(zeros, blank_inputs, self._config.network, None)

    def reset(self, instruction: str, seed: int) -> None:
        """Start an episode. Exploration depends on `seed` only; the instruction is not used."""
        self._rng = np.random.default_rng(derive_seed(seed, "specialist"))

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the action (1, A) in [-1, 1]. Raises UserError without weights, ValueError on a bad observation."""
        if self._tensors is None:
            raise UserError("specialist: no weights yet: start the learner or load a specialist folder")
        rng = self._rng if self._explore else None
        config, inputs = self._config, self._inputs(observation)
        return choose_action(self._tensors, inputs, config.network, rng, config.agent.gripper_epsilon)[None]

    def update_weights(self, data: bytes, version: int) -> None:
        """Load new weights. Raises UserError when they do not fit; the old ones then stay loaded."""
        self._tensors = unpack(data, self._shapes, f"policy weights version {version}")
        self._version = version

    def close(self) -> None:
        """Nothing to close."""
