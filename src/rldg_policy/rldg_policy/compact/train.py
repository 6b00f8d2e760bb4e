"""Fine-tuning of the compact generalist: maximise E[log pi(a | image, instruction)] over a dataset (paper, III)."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_policy.compact.batches import Batch, BatchSource
from rldg_policy.compact.checkpoint import write_checkpoint
from rldg_policy.compact.colours import recoloured
from rldg_policy.compact.config import TrainConfig
from rldg_policy.compact.inputs import instruction_tokens
from rldg_policy.compact.model import CompactModel, parameter_count, random_model
from rldg_policy.generalist import Progress
from rldg_policy.training.dataset import open_training_set
from rldg_policy.training.folders import TRAINING_FOLDER, check_out
from rldg_policy.training.guards import check_loss, check_same_training, explain_out_of_memory, training_identity
from rldg_policy.training.report import account, curve
from rldg_policy.training.torch_state import flatten_optimizer, read_state, restore_optimizer, write_state

FREE = {"save_every", "cached_images"}
"""Options that may change when a training is resumed, because the weights do not depend on them."""


@dataclass(frozen=True)
class CompactTrainResult:
    """losses: mean of every 50 steps; samples: drawn in all; transitions: in the dataset."""

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
    """What changes from step to step. average: moving average of the weights, what is served in the end."""

    model: CompactModel
    optimiser: torch.optim.Optimizer
    average: CompactModel
    losses: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, config: TrainConfig, seed: int) -> Training:
        """Random weights."""
        model, average = (random_model(config.model, derive_seed(seed, "model")) for _ in range(2))
        optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        return cls(model, optimiser, average.requires_grad_(False).eval())

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        """For `restore`."""
        moments, rest = flatten_optimizer(self.optimiser)
        weights = {f"{name}.{key}": v for name in _MODELS for key, v in getattr(self, name).state_dict().items()}
        meta = {"identity": identity, "optimiser": rest, "losses": self.losses}
        write_state(folder, len(self.losses), {**weights, **moments}, meta)

    def restore(self, folder: Path, identity: dict[str, Any]) -> None:
        """Go on where `write` was called. Raises UserError when that was another training."""
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
    """Linear warm-up, then cosine to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def loss_of(model: CompactModel, batch: Batch, config: TrainConfig, rng: Generator) -> Tensor:
    """Loss of a batch as it is varied by `rng`."""
    pixels = recoloured(batch.pixels.flatten(1, 2), config, rng).reshape(batch.pixels.shape)
    told = torch.rand(len(pixels), 1, generator=rng) >= config.instruction_dropout
    features = model(pixels, batch.mask, batch.tokens * told)
    return model.head.loss(features, batch.actions, batch.weight, config, rng)


def take_step(training: Training, batch: Batch, config: TrainConfig, seed: int, last_checkpoint: Path | None) -> None:
    """One optimiser step; it depends on the state before, the batch, the seed and its number alone.

    Raises UserError, and leaves the weights, when loss or gradient is not finite.
    """
    step = len(training.losses)
    rng = Generator().manual_seed(derive_seed(seed, "step", step))
    for group in training.optimiser.param_groups:
        group["lr"] = learning_rate(step, config)
    loss = loss_of(training.model, batch, config, rng)
    training.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(training.model.parameters(), config.clip_norm)
    # A gradient that is not finite would spoil the weights while this step's loss still looks well.
    check_loss(step + 1, loss.item() if norm.isfinite() else math.nan, last_checkpoint)
    training.optimiser.step()
    # The average forgets the random start quickly.
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
    """Train on an RLDS dataset `<root>/<name>/<version>`, of one or several tasks, and write a checkpoint folder.

    It starts from nothing: `base` must be None. resume: go on from the last save in `out`; the same dataset,
    configuration and seed give the same weights bit for bit, resumed or not. progress(step, steps) is called every ten
    steps. camera: see `open_training_set`. Raises UserError on a dataset that cannot be used, on a loss that is not
    finite (the last save stays) and when memory does not suffice.
    """
    if base is not None:
        raise UserError("base: the compact generalist starts from nothing")
    check_out(out, "compact", resume=resume)
    torch.set_num_threads(1)
    data = open_training_set(dataset, camera)
    for instruction in data.instructions:
        instruction_tokens(instruction, config.model.instruction_buckets)
    config = config.model_copy(update={"model": config.model.model_copy(update={"camera": data.camera})})
    training = Training.start(config, seed)
    folder = out / TRAINING_FOLDER  # `state`, and `checkpoint`, which can be served
    identity = training_identity(data, config, seed, free=FREE)
    if resume and (folder / "state").is_dir():  # absent: killed in its first save
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
        story = account(asdict(result), dataset, data.sha256, base, seed, config)
        write_checkpoint(where, training.average, data.statistics_json, manifest, story)
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
