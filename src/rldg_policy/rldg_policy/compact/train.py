"""Training of the compact generalist: maximise E[log pi(a | image, instruction)] over a dataset (paper, III)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_policy.compact.checkpoint import write_checkpoint
from rldg_policy.compact.config import TrainConfig
from rldg_policy.compact.heads import Head
from rldg_policy.compact.inputs import instruction_tokens, mirrored, to_input, views
from rldg_policy.compact.model import CompactModel, parameter_count, random_model
from rldg_policy.generalist import Progress
from rldg_policy.training.dataset import TrainingSet, open_training_set
from rldg_policy.training.run import (
    TRAINING_FOLDER,
    check_loss,
    check_out,
    check_same_training,
    curve,
    explain_out_of_memory,
    training_identity,
    training_report,
)
from rldg_policy.training.samples import Sample, batches, stream_samples
from rldg_policy.training.torch_state import flatten_optimizer, read_state, restore_optimizer, write_state

MIRRORED = np.array([1, -1, 1, -1, 1, -1, 1], dtype=np.float32)
"""Signs of an action mirrored at the x-z plane of the hand: y and the rotations about x and z are negated."""


@dataclass(frozen=True)
class Batch:
    """pixels (B, W, P, 3) in [0, 1]; mask (B, W); tokens (B, 96); actions (B, H, 7) normalised for the head;
    weight (B, H, 1): equal for all actions except padding, summing to 1 / 7."""

    pixels: Tensor
    mask: Tensor
    tokens: Tensor
    actions: Tensor
    weight: Tensor


class BatchSource:
    """Batches without end; the batch of step n does not depend on whether earlier ones were made."""

    def __init__(self, data: TrainingSet, head: Head, config: TrainConfig, seed: int) -> None:
        self._data, self._head, self._config, self._seed = data, head, config, seed
        self._views: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield the batches from this step on."""
        config, model = self._config, self._config.model
        samples = stream_samples(
            self._data.dataset,
            window=model.window,
            horizon=model.horizon,
            buffer=config.shuffle_buffer,
            seed=self._seed,
            skip=first_step * config.batch,
        )
        for step, chosen in enumerate(batches(samples, config.batch), first_step):
            drawn = np.random.default_rng(derive_seed(self._seed, "mirror", step)).random(len(chosen))
            yield self.batch(chosen, drawn < config.mirror)

    def batch(self, samples: list[Sample], mirror: NDArray[np.bool_]) -> Batch:
        """Return the batch of these samples; mirror (B,): which of them are mirrored."""
        buckets = self._config.model.instruction_buckets
        real = torch.from_numpy(np.stack([s.action_mask[-1] for s in samples])).float()[..., None]
        actions = np.stack([s.actions[-1] for s in samples])
        actions[mirror] *= MIRRORED
        pixels = np.stack([self._window(s) for s in samples])
        pixels[mirror] = mirrored(pixels[mirror], self._config.model)
        return Batch(
            pixels=to_input(pixels),
            mask=torch.from_numpy(np.stack([s.image_mask for s in samples])).float(),
            tokens=torch.from_numpy(np.stack([instruction_tokens(s.instruction, buckets) for s in samples])),
            actions=torch.from_numpy(self._head.normalise(self._data.actions, actions)),
            weight=real / (real.sum() * actions.shape[-1]),
        )

    def _window(self, sample: Sample) -> NDArray[np.uint8]:
        first = sample.index - len(sample.images) + 1
        steps = [max(first + i, 0) for i in range(len(sample.images))]
        return np.stack([self._pixels(sample.episode, k, j) for k, j in zip(steps, sample.images, strict=True)])

    def _pixels(self, episode: int, step: int, jpeg: bytes) -> NDArray[np.uint8]:
        found = self._views.get((episode, step))
        if found is None:
            found = views(jpeg, self._config.model)
            if len(self._views) < self._config.cached_images:
                self._views[episode, step] = found
        return found


RECOLOURED = 0.9
"""Share of samples whose colours are changed."""
WAVE_FREQUENCY = 6.0
"""Standard deviation of the frequency of the wave along each colour channel [rad per unit]."""


def recoloured(pixels: Tensor, config: TrainConfig, rng: Generator) -> Tensor:
    """Change the colours of (B, P, 3) in [0, 1] at random, in the same way for all pixels of a sample."""
    size = len(pixels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(size, *shape, generator=rng)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(size, *shape, generator=rng)

    mixed = (uniform(0, 1, 1, 1) < RECOLOURED).float()
    grey = (uniform(0, 1, 1, 1) < config.grey).float()
    mixing = torch.eye(3) + mixed * config.recolour * normal(3, 3)
    mixing = mixing @ (torch.eye(3) * (1 - grey) + grey / 3)
    centred = pixels - 0.5
    phase = centred @ (WAVE_FREQUENCY * normal(3, 1)) + uniform(0, 2 * torch.pi, 1, 1)
    wave = torch.cos(phase) @ (mixed * config.wave * normal(1, 3))
    strength = config.jitter
    gain = 1 + uniform(-strength, strength, 1, 1) + uniform(-strength / 2, strength / 2, 1, 3)
    bias = uniform(-strength / 2, strength / 2, 1, 3)
    return (centred @ mixing + wave) * gain + 0.5 + bias


FREE = {"save_every", "cached_images"}
"""Options that may change when a training is resumed: the weights do not depend on them."""


@dataclass(frozen=True)
class CompactTrainResult:
    """Result of a training. losses: mean of every 50 steps; samples: total drawn; transitions: in the dataset."""

    checkpoint: str
    steps: int
    samples: int
    transitions: int
    episodes: int
    parameters: int
    losses: tuple[float, ...]
    samples_per_s: float


@dataclass
class Training:
    """Training state. average: exponential moving average of the weights, which is saved for serving."""

    model: CompactModel
    optimiser: torch.optim.Optimizer
    average: CompactModel
    losses: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, config: TrainConfig, seed: int) -> Training:
        """Return the state before the first step, with random weights."""
        model, average = (random_model(config.model, derive_seed(seed, "model")) for _ in range(2))
        optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        return cls(model, optimiser, average.requires_grad_(False).eval())

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write the state for `restore`."""
        moments, rest = flatten_optimizer(self.optimiser)
        weights = {f"{name}.{key}": v for name in _MODELS for key, v in getattr(self, name).state_dict().items()}
        meta = {"identity": identity, "optimiser": rest, "losses": self.losses}
        write_state(folder, len(self.losses), {**weights, **moments}, meta)

    def restore(self, folder: Path, identity: dict[str, Any]) -> None:
        """Restore what `write` wrote. Raises UserError when it is of another training."""
        state = read_state(folder)
        check_same_training(folder, state.meta["identity"], identity)
        for name in _MODELS:
            prefix = f"{name}."
            values = {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}
            getattr(self, name).load_state_dict(values)
        restore_optimizer(self.optimiser, state.tensors, state.meta["optimiser"])
        self.losses = list(state.meta["losses"])


_MODELS = ("model", "average")


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def loss_of(model: CompactModel, batch: Batch, config: TrainConfig, rng: Generator) -> Tensor:
    """Return the loss of a batch, augmented with `rng`."""
    pixels = recoloured(batch.pixels.flatten(1, 2), config, rng).reshape(batch.pixels.shape)
    with_instruction = torch.rand(len(pixels), 1, generator=rng) >= config.instruction_dropout
    features = model(pixels, batch.mask, batch.tokens * with_instruction)
    return model.head.loss(features, batch.actions, batch.weight, config, rng)


def take_step(training: Training, batch: Batch, config: TrainConfig, seed: int, last_checkpoint: Path | None) -> None:
    """Make one optimiser step; the result depends only on the state, the batch, the seed and the step number.

    Raises UserError when loss or gradient is not finite; the weights are then unchanged.
    """
    step = len(training.losses)
    rng = Generator().manual_seed(derive_seed(seed, "step", step))
    for group in training.optimiser.param_groups:
        group["lr"] = learning_rate(step, config)
    loss = loss_of(training.model, batch, config, rng)
    training.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(training.model.parameters(), config.clip_norm)
    # The gradient can be non-finite although the loss of this step is finite.
    check_loss(step + 1, loss.item() if norm.isfinite() else math.nan, last_checkpoint)
    training.optimiser.step()
    # A smaller decay at first, so that the average forgets the random initialisation.
    decay = min(config.average, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(training.average.parameters()), list(training.model.parameters()), 1 - decay)
    training.losses.append(loss.item())


def finetune(
    dataset: Path,
    out: Path,
    config: TrainConfig,
    *,
    base: Path | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
    camera: str | None = None,
) -> CompactTrainResult:
    """Train on an RLDS dataset `<root>/<name>/<version>` of one or several tasks and write a checkpoint folder.

    Training starts from random weights: `base` must be None. resume: continue from the last save in `out`; the same
    dataset, configuration and seed give bit-identical weights, resumed or not. progress(step, steps) is called every
    ten steps. camera: see `open_training_set`. Raises UserError on an invalid dataset, on a loss that is not finite
    (the last save is kept), and when memory runs out.
    """
    if base is not None:
        raise UserError("base: the compact generalist is trained from random weights")
    check_out(out, "compact", resume=resume)
    torch.set_num_threads(1)
    data = open_training_set(dataset, camera)
    for instruction in data.instructions:
        instruction_tokens(instruction, config.model.instruction_buckets)
    config = config.model_copy(update={"model": config.model.model_copy(update={"camera": data.camera})})
    training = Training.start(config, seed)
    folder = out / TRAINING_FOLDER  # holds `state` and `checkpoint`, which can be served
    identity = training_identity(data, config, seed, free=FREE)
    if resume and (folder / "state").is_dir():  # missing if the training was killed during its first save
        training.restore(folder / "state", identity)
    first, saved = len(training.losses), folder / "checkpoint"
    last_checkpoint = saved if saved.is_dir() else None
    began = time.perf_counter()

    def publish(where: Path) -> CompactTrainResult:
        done = len(training.losses)
        result = CompactTrainResult(
            checkpoint=str(out),
            steps=done,
            samples=done * config.batch,
            transitions=data.transitions,
            episodes=data.episodes,
            parameters=parameter_count(training.model),
            losses=curve(training.losses),
            samples_per_s=round((done - first) * config.batch / (time.perf_counter() - began), 1),
        )
        model = config.model
        manifest = data.manifest(
            "compact", done, image_size=model.image_size, window=model.window, horizon=model.horizon
        )
        report = training_report(asdict(result), dataset, data.sha256, base, seed, config)
        write_checkpoint(where, training.average, data.statistics_json, manifest, report)
        return result

    advice = f"lower batch ({config.batch}), cached_images ({config.cached_images}) or shuffle_buffer"
    with explain_out_of_memory(advice):
        source = BatchSource(data, training.model.head, config, seed).batches(first)
        for step in range(first + 1, config.steps + 1):
            take_step(training, next(source), config, seed, last_checkpoint)
            if progress and (step % 10 == 0 or step == config.steps):
                progress(step, config.steps)
            if step % config.save_every == 0 and step < config.steps:
                training.write(folder / "state", identity)
                publish(saved)
                last_checkpoint = saved
    return publish(out)
