"""The back-end `compact`: a trained compact generalist behind the Policy interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.policy import PolicySpec
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.compact.checkpoint import read_checkpoint
from rldg_policy.compact.config import ModelConfig
from rldg_policy.compact.inputs import instruction_tokens, views
from rldg_policy.compact.tokenize import ActionStatistics

SCALE_TOLERANCE = 1.05


class CompactPolicy:
    """Deterministic: `explore` and the episode's seed are not used.

    Raises UserError when the checkpoint is of another task, or when its actions leave the task's action scale
    (a scale smaller than the one of its data would silently shorten every motion).
    """

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        if path is None:
            raise UserError("policy compact: path: a checkpoint folder is needed")
        checkpoint = read_checkpoint(path)
        config = checkpoint.config
        if config.task != task.name:
            raise UserError(f"{path}: made for task {config.task!r}, this stack runs {task.name!r}")
        check_scale(path, checkpoint.statistics, task)
        self._model = checkpoint.model
        self._statistics = checkpoint.statistics
        self._task = task
        self.spec = PolicySpec(
            cameras=(config.model.camera,),
            image_size=config.model.image_size,
            window=1,
            action_dim=task.action.dim,
            horizon=config.model.horizon,
            rate_hz=task.rates.control_hz,
            statistics_key=config.statistics_key,
            version=config.version,
        )
        self.reset("", 0)

    @property
    def config(self) -> ModelConfig:
        """Shape of the network."""
        return self._model.config

    def warm_up(self) -> None:
        """Two inferences on a grey image: the first one allocates."""
        grey = np.full((self.config.image_size,) * 2 + (3,), 128, dtype=np.uint8)
        for _ in range(2):
            self._infer(encode_jpeg(grey))

    @torch.inference_mode()
    def reset(self, instruction: str, seed: int) -> None:
        """Encode the instruction, once per episode."""
        tokens = instruction_tokens(instruction, self.config.instruction_buckets)
        self._film = self._model.instruction(torch.from_numpy(tokens[None]))

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """(H, A) in [-1, 1] of the task's scale. Raises ValueError when the camera's image is missing or broken."""
        jpeg = observation.images.get(self.config.camera)
        if jpeg is None:
            raise ValueError(f"observation without an image of camera {self.config.camera!r}")
        physical = self._statistics.denormalise(self._infer(jpeg))
        scale = np.array([self._task.action.scale_m] * 3 + [self._task.action.scale_rad] * 3)
        actions = np.concatenate([physical[:, :6] / scale, 2 * physical[:, 6:] - 1], axis=1)
        chunk: NDArray[np.float32] = np.clip(actions[:, : self.spec.action_dim], -1.0, 1.0).astype(np.float32)
        return chunk

    @torch.inference_mode()
    def _infer(self, jpeg: bytes) -> NDArray[np.float32]:
        torch.set_num_threads(1)  # per thread, and this one is the tick's
        x = torch.from_numpy(views(jpeg, self.config)[None]).permute(0, 1, 4, 2, 3).float() / 255.0
        normalised: NDArray[np.float32] = self._model.action(self._model.decode(x, self._film))[0].numpy()
        return normalised

    def close(self) -> None:
        """Nothing is held open."""


def check_scale(path: Path, statistics: ActionStatistics, task: Task) -> None:
    """Raise UserError when the data's actions are larger than one unit of the task's action."""
    largest = np.maximum(np.abs(statistics.q01), np.abs(statistics.q99))[:6]
    for values, scale, unit in ((largest[:3], task.action.scale_m, "m"), (largest[3:], task.action.scale_rad, "rad")):
        if float(values.max()) > SCALE_TOLERANCE * scale:
            raise UserError(
                f"{path}: made for actions up to {float(values.max()):.4f} {unit} per step, "
                f"task {task.name} allows {scale:g} {unit}"
            )
