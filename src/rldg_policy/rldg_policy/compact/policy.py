"""The back-end `compact`: the compact generalist as a Policy."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.checkpoint.manifest import check_task, manifest_spec
from rldg_policy.checkpoint.statistics import check_scale, to_unit_actions
from rldg_policy.compact.checkpoint import read_checkpoint
from rldg_policy.compact.config import ModelConfig
from rldg_policy.compact.inputs import instruction_tokens, to_input, views


class CompactPolicy:
    """Policy from a checkpoint folder. It samples chunks with `explore` or decode `sample`, seeded by `reset`.

    Raises UserError when the checkpoint is for another task, or when its actions exceed the task's action scale.
    """

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        if path is None:
            raise UserError("policy compact: path: expected a checkpoint folder")
        checkpoint = read_checkpoint(path)
        manifest = checkpoint.manifest
        check_task(path, manifest, task)
        check_scale(path, checkpoint.statistics, task)
        self._model = checkpoint.model
        self._sampler = checkpoint.model.head.sampler()
        self._statistics = checkpoint.statistics
        self._task = task
        self._sample = explore or self.config.decode == "sample"
        self.spec = manifest_spec(manifest, task)

    @property
    def config(self) -> ModelConfig:
        """Architecture of the network."""
        return self._model.config

    def warm_up(self) -> None:
        """Run two inferences on a grey image, because the first one allocates memory."""
        grey = encode_jpeg(np.full((self.config.image_size,) * 2 + (3,), 128, dtype=np.uint8))
        self.reset("warm up", 0)
        for _ in range(2):
            self._encode(grey)
            self._infer()

    @torch.inference_mode()
    def reset(self, instruction: str, seed: int) -> None:
        """Encode the instruction, once per episode. Raises UserError when a part of it would be lost."""
        tokens = instruction_tokens(instruction, self.config.instruction_buckets)
        self._film = self._model.instruction(torch.from_numpy(tokens[None]))
        self._rng = torch.Generator().manual_seed(derive_seed(seed, "compact"))
        self._embeddings: deque[Tensor] = deque(maxlen=self.config.window)

    def remember(self, observation: Observation) -> None:
        """Add an observation without inference to the window. Raises ValueError as `act`."""
        if self.config.window > 1:
            self._encode(self._jpeg(observation))

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return a chunk (H, A) in [-1, 1] of the task's scale. Raises ValueError on a missing or damaged image."""
        self._encode(self._jpeg(observation))
        physical = self._model.head.denormalise(self._statistics, self._infer())
        return to_unit_actions(physical, self._task, self.spec.action_dim)

    def _jpeg(self, observation: Observation) -> bytes:
        jpeg = observation.images.get(self.config.camera)
        if jpeg is None:
            raise ValueError(f"observation: no image of camera {self.config.camera!r}")
        return jpeg

    @torch.inference_mode()
    def _encode(self, jpeg: bytes) -> None:
        torch.set_num_threads(1)  # a setting per thread
        self._embeddings.append(self._model.encode_images(to_input(views(jpeg, self.config)[None]), self._film))

    @torch.inference_mode()
    def _infer(self) -> NDArray[np.float32]:
        window = self.config.window
        missing = window - len(self._embeddings)
        embeddings = torch.stack([self._embeddings[0]] * missing + list(self._embeddings), 1)
        mask = (torch.arange(window) >= missing)[None].float()
        features = self._model.encode_window(embeddings, mask)
        normalised: NDArray[np.float32] = self._sampler(features, self._rng if self._sample else None)[0].numpy()
        return normalised

    def close(self) -> None:
        """Do nothing: no resources are held."""
