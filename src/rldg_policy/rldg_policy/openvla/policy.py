"""The back-end `openvla`: an OpenVLA checkpoint, upstream's or ours, as a Policy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import encode_jpeg
from rldg_core.policy import PolicySpec
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_policy.checkpoint.manifest import check_task
from rldg_policy.checkpoint.statistics import check_scale, to_unit_actions
from rldg_policy.openvla.checkpoint import Checkpoint, read_checkpoint
from rldg_policy.openvla.config import IMAGE_SIZE, INFERENCE_HZ
from rldg_policy.openvla.model import decode_ar, decode_parallel
from rldg_policy.openvla.processing import inference_ids, pixel_values, serving_view, with_slots


class OpenVLAPolicy:
    """bfloat16 on a GPU, float32 on the CPU. Decoding is greedy; with `explore`, tokens are sampled at temperature 1
    (not with an L1 head, which is deterministic).

    Raises UserError when the checkpoint cannot be read, is for another task, or when its actions exceed the task's
    action scale.
    """

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        if path is None:
            raise UserError("policy openvla: path: expected a checkpoint folder")
        self._device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
        checkpoint = read_checkpoint(path, self._device, dtype)
        manifest = checkpoint.manifest
        check_task(path, manifest, task)
        check_scale(path, checkpoint.statistics, task)
        self._checkpoint: Checkpoint | None = checkpoint
        self._task = task
        self._explore = explore
        self._camera = manifest.camera if manifest else "wrist"
        self._generator: torch.Generator | None = None
        self._prompt: tuple[torch.Tensor, torch.Tensor] | None = None
        self.spec = PolicySpec(
            cameras=(self._camera,),
            image_size=IMAGE_SIZE,
            window=1,
            action_dim=task.action.dim,
            horizon=checkpoint.decoding.horizon,
            rate_hz=manifest.inferences_hz(task) if manifest else INFERENCE_HZ,
            statistics_key=checkpoint.statistics_key,
            version=manifest.version if manifest else 0,
            control_rates_hz=manifest.control_rates_hz if manifest else (),
        )

    def warm_up(self) -> None:
        """Run two inferences on a grey image, because the first one allocates memory."""
        self.reset("warm up", 0)
        grey = encode_jpeg(np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 128, dtype=np.uint8))
        for _ in range(2):
            self._infer(grey)

    def reset(self, instruction: str, seed: int) -> None:
        """Tokenise the instruction, once per episode. Raises UserError when it is empty."""
        checkpoint = self._loaded()
        ids = inference_ids(checkpoint.tokenizer(instruction))
        ids, slots = with_slots(ids, checkpoint.decoding.horizon if checkpoint.decoding.decoding == "parallel" else 0)
        self._prompt = (self._on_device(ids), self._on_device(slots))
        if self._explore:
            self._generator = torch.Generator(self._device).manual_seed(derive_seed(seed, "openvla"))

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return a chunk (H, A) in [-1, 1] of the task's scale. Raises ValueError on a missing or damaged image."""
        jpeg = observation.images.get(self._camera)
        if jpeg is None:
            raise ValueError(f"observation: no image of camera {self._camera!r}")
        physical = self._loaded().statistics.bounds_denormalise(self._infer(jpeg))
        return to_unit_actions(physical, self._task, self.spec.action_dim)

    def close(self) -> None:
        """Release the model and its memory."""
        self._checkpoint = self._prompt = self._generator = None
        if self._device == "cuda":
            torch.cuda.empty_cache()

    def _infer(self, jpeg: bytes) -> NDArray[np.float32]:
        """Predict normalised actions (H, 7) from a JPEG."""
        if self._device == "cpu":
            torch.set_num_threads(1)  # a setting per thread
        checkpoint = self._loaded()
        if self._prompt is None:
            raise UserError("policy openvla: act before reset")
        ids, slots = self._prompt
        pixels = pixel_values([serving_view(jpeg, checkpoint.decoding.centre_crop)])
        pixels = pixels.to(self._device, checkpoint.model.projector.fc1.weight.dtype)
        if checkpoint.decoding.decoding == "parallel":
            return decode_parallel(checkpoint.model, ids, pixels, slots, checkpoint.decoding.horizon, self._generator)
        return decode_ar(checkpoint.model, ids, pixels, self._generator)

    def _on_device(self, values: NDArray[np.int64] | NDArray[np.bool_]) -> torch.Tensor:
        return torch.from_numpy(values[None]).to(self._device)

    def _loaded(self) -> Checkpoint:
        if self._checkpoint is None:
            raise UserError("policy openvla: closed")
        return self._checkpoint
