"""Fine-tuning of the compact generalist: maximise E[log pi(a | image, instruction)] over a dataset (paper, III)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_data.rlds import IMAGE_KEY, read_dataset
from rldg_policy.compact.checkpoint import write_checkpoint
from rldg_policy.compact.config import ACTION_DIM, BINS, ModelConfig, TrainConfig
from rldg_policy.compact.inputs import instruction_tokens, views
from rldg_policy.compact.model import CompactModel, parameter_count
from rldg_policy.compact.tokenize import ActionStatistics, from_bins, to_bins

Progress = Callable[[int, int], None]
LOSS_EVERY = 50
"""Steps between two points of the loss curve."""


@dataclass(frozen=True)
class Samples:
    """Every step with an action. images (N, 2, S, S, 3) uint8; tokens (N, 96); actions (N, H, 7) in [-1, 1];
    valid (N, H): the chunk does not reach beyond the episode; episode (N,) numbers from 0."""

    images: NDArray[np.uint8]
    tokens: NDArray[np.int64]
    actions: NDArray[np.float32]
    valid: NDArray[np.bool_]
    episode: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.int64]) -> Samples:
        """A selection of samples."""
        return Samples(self.images[rows], self.tokens[rows], self.actions[rows], self.valid[rows], self.episode[rows])


@dataclass(frozen=True)
class TrainResult:
    """losses: mean cross-entropy + L1 of every 50 steps; validation_*: on held-out episodes, or on the
    training samples when none was held out; l1 in normalised units."""

    steps: int
    samples: int
    episodes: int
    parameters: int
    losses: tuple[float, ...]
    validation_loss: float
    validation_l1: float
    validation_token_accuracy: float


@dataclass(frozen=True)
class TrainingSet:
    """Samples of a dataset, its statistics, its name (the statistics' key) and the one task of its episodes."""

    samples: Samples
    statistics: dict[str, Any]
    name: str
    task: str


def read_samples(dataset_path: Path, config: ModelConfig) -> TrainingSet:
    """Read a dataset; every image is decoded once. Raises UserError when it cannot be used."""
    dataset = read_dataset(dataset_path)
    where = str(dataset_path)
    statistics = ActionStatistics.read(dataset.statistics.get("action", {}), f"{where}: dataset_statistics.json")
    parts: list[Samples] = []
    tasks: set[str] = set()
    for number, episode in enumerate(dataset.episodes()):
        count = len(episode) - 1
        if count < 1:
            continue
        tasks.add(str(episode.metadata["task"]))
        images = np.stack([views(jpeg, config) for jpeg in episode.images[IMAGE_KEY][:count]])
        tokens = np.tile(instruction_tokens(episode.instruction, config.instruction_buckets), (count, 1))
        steps = np.arange(count)[:, None] + np.arange(config.horizon)
        actions = statistics.normalise(episode.action[:count])[np.minimum(steps, count - 1)]
        parts.append(Samples(images, tokens, actions, steps < count, np.full(count, number)))
    if not parts:
        raise UserError(f"{where}: no episode with an action")
    if len(tasks) != 1:
        raise UserError(f"{where}: episodes of several tasks ({', '.join(sorted(tasks))}): export one per generalist")
    fields = ("images", "tokens", "actions", "valid", "episode")
    samples = Samples(*(np.concatenate([getattr(p, f) for p in parts]) for f in fields))
    return TrainingSet(samples, dict(dataset.statistics), dataset.name, tasks.pop())


def soft_targets(actions: Tensor, sigma_bins: float) -> Tensor:
    """Normalised actions (...) -> distribution over the bins (..., 256): Gaussian around the value; 0: the true bin."""
    if sigma_bins == 0:
        return F.one_hot(torch.from_numpy(to_bins(actions.numpy())), BINS).float()
    position = (actions + 1) * (BINS - 1) / 2 - 0.5
    distance = (torch.arange(BINS) - position[..., None]) / sigma_bins
    return torch.softmax(-0.5 * distance**2, -1)


def loss_of(model: CompactModel, logits: Tensor, batch: Samples, config: TrainConfig) -> tuple[Tensor, Tensor]:
    """(cross-entropy + weighted L1, L1) over valid slots and components."""
    actions = torch.from_numpy(batch.actions)
    weight = torch.from_numpy(batch.valid).float()[..., None] / (batch.valid.sum() * ACTION_DIM)
    cross_entropy = -(soft_targets(actions, config.target_sigma_bins) * logits.log_softmax(-1)).sum(-1)
    l1 = ((model.expected(logits) - actions).abs() * weight).sum()
    return (cross_entropy * weight).sum() + config.l1_weight * l1, l1


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """(B, 2, S, S, 3) uint8 -> (B, 2, 3, S, S) float in [0, 1]."""
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3).float() / 255.0


def jittered(x: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Vary contrast, brightness and colour of each sample, both views alike."""
    contrast = strength * rng.uniform(-1, 1, (len(x), 1, 1, 1, 1))
    gain = 1 + contrast + 0.5 * strength * rng.uniform(-1, 1, (len(x), 1, 3, 1, 1))
    bias = 0.5 * strength * rng.uniform(-1, 1, (len(x), 1, 3, 1, 1))
    return (x - 0.5) * torch.from_numpy(gain).float() + 0.5 + torch.from_numpy(bias).float()


def split(episode: NDArray[np.int64], share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and rows of held-out episodes."""
    numbers = np.unique(episode)
    held_out = np.random.default_rng(derive_seed(seed, "split")).permutation(numbers)[: int(share * len(numbers))]
    is_held = np.isin(episode, held_out)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine to zero; a factor of config.learning_rate."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)))


def fit(
    samples: Samples, config: TrainConfig, seed: int, progress: Progress | None = None
) -> tuple[CompactModel, list[float]]:
    """Train on `samples`. The same samples, configuration and seed give the same weights, bit for bit."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(derive_seed(seed, "batches"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "model"))
        model = CompactModel(config.model)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(step, config))
    losses: list[float] = []
    for step in range(config.steps):
        batch = samples.take(rng.integers(0, len(samples), config.batch))
        x = jittered(to_input(batch.images), config.jitter, rng)
        loss, _ = loss_of(model, model(x, torch.from_numpy(batch.tokens)), batch, config)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress and (step % 10 == 9 or step + 1 == config.steps):
            progress(step + 1, config.steps)
    model.eval()
    return model, losses


@torch.inference_mode()
def measure(model: CompactModel, samples: Samples, config: TrainConfig) -> tuple[float, float, float]:
    """(loss, L1, share of first-action components whose likeliest bin is the true one or next to it)."""
    totals = np.zeros(3)
    for begin in range(0, len(samples), 64):
        batch = samples.take(np.arange(begin, min(begin + 64, len(samples))))
        logits = model(to_input(batch.images), torch.from_numpy(batch.tokens))
        loss, l1 = loss_of(model, logits, batch, config)
        bins = to_bins(from_bins(logits[:, 0].argmax(-1).numpy()))
        near = np.abs(bins - to_bins(batch.actions[:, 0])) <= 1
        totals += len(batch) * np.array([float(loss), float(l1), float(near.mean())])
    loss_mean, l1_mean, accuracy = totals / len(samples)
    return float(loss_mean), float(l1_mean), float(accuracy)


def finetune(
    dataset_path: Path, output_dir: Path, config: TrainConfig, seed: int = 0, progress: Progress | None = None
) -> TrainResult:
    """Train on an RLDS dataset `<root>/<name>/<version>` and write a checkpoint folder.

    progress(step, steps) is called every ten steps. Raises UserError on a dataset that cannot be used.
    """
    data = read_samples(dataset_path, config.model)
    samples = data.samples
    train_rows, held_rows = split(samples.episode, config.validation_share, seed)
    model, losses = fit(samples.take(train_rows), config, seed, progress)
    loss, l1, accuracy = measure(model, samples.take(held_rows if len(held_rows) else train_rows), config)
    curve = tuple(float(np.mean(losses[i : i + LOSS_EVERY])) for i in range(0, len(losses), LOSS_EVERY))
    result = TrainResult(
        steps=config.steps,
        samples=len(train_rows),
        episodes=len(np.unique(samples.episode)),
        parameters=parameter_count(model),
        losses=curve,
        validation_loss=loss,
        validation_l1=l1,
        validation_token_accuracy=accuracy,
    )
    training = {**result.__dict__, "seed": seed, "dataset": str(dataset_path), "config": config.model_dump(mode="json")}
    write_checkpoint(output_dir, model, data.task, data.name, data.statistics, training)
    return result
