"""The back-end `octo`: an Octo checkpoint as a Policy.

Sampling starts from noise that depends on the episode's seed. Without `explore`, every inference of an episode starts
from the same noise, so that the chunk is a function of the observations; with `explore`, each inference draws new
noise. In both cases the same seed and observations give the same chunks.
"""

from __future__ import annotations

import os
from collections import deque
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_core.jax_runtime import limit_cpu_threads
from rldg_core.policy import PolicySpec
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_data.rlds import ACTION_DIM
from rldg_policy.checkpoint.manifest import Manifest, check_task
from rldg_policy.checkpoint.statistics import check_scale, choose_statistics, to_unit_actions
from rldg_policy.octo.checkpoint import OctoCheckpoint, read_checkpoint
from rldg_policy.octo.model import encode_language, sample_actions
from rldg_policy.octo.transformer import Inputs
from rldg_policy.training.augment import centre_crop, resize_lanczos

PRIMARY, WRIST = "image_primary", "image_wrist"
WRIST_CAMERA, PRIMARY_CAMERA = "wrist", "primary"

Image = NDArray[np.uint8]


class OctoPolicy:
    """Policy from a checkpoint folder.

    The primary tokenizer gets the manifest's camera (RLDG: `wrist`), without a manifest the task's camera `primary`,
    else `wrist`. A wrist tokenizer gets camera `wrist`, unless the primary tokenizer gets it. Raises UserError when the
    checkpoint is damaged, has no statistics, or does not fit the task.
    """

    def __init__(self, path: Path | None, task: Task, explore: bool = False) -> None:
        if path is None:
            raise UserError("policy octo: path: expected a checkpoint folder")
        _start_jax()
        checkpoint = read_checkpoint(path)
        manifest = checkpoint.manifest
        check_task(path, manifest, task)
        key, self._statistics = choose_statistics(path, manifest)
        for name in ("mean", "std"):
            self._statistics.need(name)
        check_scale(path, self._statistics, task)
        _check_shapes(path, checkpoint)
        head = checkpoint.module.config.heads.action
        self._task, self._explore = task, explore
        self._tokenizer, self._sizes = checkpoint.tokenizer, checkpoint.image_sizes
        self._cameras = _cameras(checkpoint, task)
        self.spec = PolicySpec(
            cameras=tuple(self._cameras.values()),
            image_size=self._sizes[PRIMARY],
            window=manifest.window if manifest else checkpoint.window,
            action_dim=task.action.dim,
            horizon=head.action_horizon,
            rate_hz=manifest.inferences_hz(task) if manifest else task.rates.control_hz,
            statistics_key=key,
            version=manifest.version if manifest else checkpoint.step,
            control_rates_hz=manifest.control_rates_hz if manifest else (),
        )
        self._history: deque[dict[str, Image]] = deque(maxlen=self.spec.window)
        self._instruction: jax.Array | None = None
        self._params: Any = jax.device_put(checkpoint.params)
        self._module = checkpoint.module

    def warm_up(self) -> None:
        """Compile with an example instruction and grey images; the state of a running episode is not changed."""
        grey = {name: np.full((self._sizes[name],) * 2 + (3,), 128, np.uint8) for name in self._cameras}
        instruction = self._encode("insert")
        for _ in range(2):
            self._infer([grey], instruction, 0)

    def reset(self, instruction: str, seed: int) -> None:
        """Encode the instruction, once per episode, and clear the window.

        Raises UserError when it is not representable.
        """
        self._instruction = self._encode(instruction)
        self._history.clear()
        self._seed, self._inferences = seed, 0

    def remember(self, observation: Observation) -> None:
        """Add the observation to the window. Raises ValueError on a missing or damaged image."""
        self._history.append({name: self._image(observation, name) for name in self._cameras})

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return a chunk (H, A) in [-1, 1] of the task's scale.

        Raises ValueError before `reset` and on a missing or damaged image.
        """
        if self._instruction is None:
            raise ValueError("no episode: call reset first")
        self.remember(observation)
        labels = (self._inferences,) if self._explore else ()
        chunk = self._infer(list(self._history), self._instruction, derive_seed(self._seed, "octo", *labels))
        self._inferences += 1
        physical = self._statistics.gaussian_denormalise(chunk)
        return to_unit_actions(physical, self._task, self.spec.action_dim)

    def close(self) -> None:
        """Release the weights; compiled functions stay for the next policy of the same shape. Safe to call twice."""
        for leaf in jax.tree.leaves(self._params):
            leaf.delete()
        self._params = self._instruction = None
        self._history.clear()

    def _encode(self, instruction: str) -> jax.Array:
        embeddings: jax.Array = encode_language(self._module, self._params, **self._tokenizer([instruction]))
        return embeddings

    def _image(self, observation: Observation, name: str) -> Image:
        """Return the image for a tokenizer: resized as in upstream's loader, with the centre crop of its training."""
        camera, size = self._cameras[name], self._sizes[name]
        jpeg = observation.images.get(camera)
        if jpeg is None:
            raise ValueError(f"observation: no image of camera {camera!r}")
        image = decode_jpeg(jpeg)
        if image.shape[:2] != (size, size):
            image = resize_lanczos(image, size)
        return centre_crop(image) if name == PRIMARY else image

    def _infer(
        self, images_in_window: list[dict[str, Image]], instruction: jax.Array, seed: int
    ) -> NDArray[np.float32]:
        """Predict normalised actions (H, 7). A window that is not full is padded with its first observation, masked."""
        missing = self.spec.window - len(images_in_window)
        window = [images_in_window[0]] * missing + images_in_window
        mask = np.array([[False] * missing + [True] * len(images_in_window)])
        observations: Inputs = {name: np.stack([images[name] for images in window])[None] for name in self._cameras}
        observations["pad_mask_dict"] = dict.fromkeys(self._cameras, mask)
        tasks = {"language_instruction": instruction}
        key = np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)
        # Upstream's random numbers: jax 0.5 changed the default stream of a key.
        with jax.threefry_partitionable(False):
            chunk = sample_actions(self._module, self._params, observations, tasks, mask, key)
        values = np.asarray(chunk[0], dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError("the denoiser's output is not finite")
        return values


@cache
def _start_jax() -> None:
    """Leave one core for the control loop, and do not preallocate GPU memory.

    With threads on both of two busy cores, an inference waited three times as long as it computed (measured).
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    limit_cpu_threads(max(1, len(os.sched_getaffinity(0)) - 1))


def _cameras(checkpoint: OctoCheckpoint, task: Task) -> dict[str, str]:
    """Return image of the network -> camera of the task."""
    if checkpoint.manifest:
        primary = checkpoint.manifest.camera
    else:
        primary = PRIMARY_CAMERA if PRIMARY_CAMERA in task.cameras else WRIST_CAMERA
    cameras = {PRIMARY: primary}
    if WRIST in checkpoint.image_sizes and WRIST_CAMERA in task.cameras and primary != WRIST_CAMERA:
        cameras[WRIST] = WRIST_CAMERA
    return cameras


def _check_shapes(path: Path, checkpoint: OctoCheckpoint) -> None:
    """Raise UserError when network and manifest differ, or when the network is not for one arm with a gripper."""
    head = checkpoint.module.config.heads.action
    if head.action_dim != ACTION_DIM:
        raise UserError(f"{path}: its actions have {head.action_dim} components, expected {ACTION_DIM}")
    if PRIMARY not in checkpoint.image_sizes:
        raise UserError(f"{path}: its inputs are {', '.join(checkpoint.image_sizes)}, expected {PRIMARY}")
    manifest: Manifest | None = checkpoint.manifest
    if manifest is None:
        return
    for name, declared, found in (
        ("image_size", manifest.image_size, checkpoint.image_sizes[PRIMARY]),
        ("horizon", manifest.horizon, head.action_horizon),
    ):
        if declared != found:
            raise UserError(f"{path}: rldg.json: {name} {declared}, the checkpoint has {found}")
    if manifest.window > checkpoint.window:
        raise UserError(
            f"{path}: rldg.json: window {manifest.window}, the checkpoint was trained with {checkpoint.window}"
        )
