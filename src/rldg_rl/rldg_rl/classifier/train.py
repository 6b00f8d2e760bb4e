"""Trains a classifier on labelled frames, calibrates and evaluates it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_rl.classifier.calibration import (
    Bool,
    Float,
    balanced_nll,
    choose_threshold,
    fit_temperature,
    measure,
    sigmoid,
)
from rldg_rl.classifier.checkpoint import SavedClassifier, camera_of, view_hash
from rldg_rl.classifier.contact_sheet import contact_sheet
from rldg_rl.classifier.features import encode_frames, encoder_of
from rldg_rl.classifier.frames import Frame, split_by_episode
from rldg_rl.classifier.model import ClassifierConfig, Tensors, Trainer, forward
from rldg_rl.classifier.success import learn_box

Progress = Callable[[int, int], None]


def train(
    frames: Sequence[Frame],
    task: Task,
    config: ClassifierConfig,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> tuple[SavedClassifier, bytes]:
    """Train on a part of the episodes, calibrate and evaluate on the rest; return the classifier and its contact sheet.

    The epoch with the smallest held-out loss is kept. Threshold, temperature and epoch are chosen on the held-out
    episodes, so the metrics in `report` are slightly optimistic: `rldg classifier evaluate` measures on other bags.
    Raises UserError when a class or a second episode is missing, on a corrupt JPEG, or on a bad encoder.
    """
    began_s = time.process_time()
    camera = camera_of(config, task)
    split = split_by_episode(frames, config.held_out, seed)
    encoder = encoder_of(config)
    total = len(frames) + config.epochs
    features = encode_frames(split.train, encoder, config.crops, lambda done, _: progress(done, total))
    held_out = encode_frames(split.held_out, encoder, 1, lambda done, _: progress(len(split.train) + done, total))
    held_features = held_out[:, 0].astype(np.float32)
    labels, held_labels = _labels(split.train), _labels(split.held_out)

    trainer = Trainer(features.shape[-1], config, derive_seed(seed, "classifier", "weights"))
    rng = np.random.default_rng(derive_seed(seed, "classifier", "batches"))
    key = jax.random.key(derive_seed(seed, "classifier", "dropout") % 2**32)
    best, best_nll, best_epoch, curve = trainer.tensors(), np.inf, 0, []
    for epoch in range(config.epochs):
        losses = []
        for rows, crops in _epoch(labels, config, rng):
            key, now = jax.random.split(key)
            losses.append(trainer.update(features[rows, crops], labels[rows], now))
        tensors = trainer.tensors()
        nll = balanced_nll(_logits(tensors, held_features), held_labels)
        curve.append((float(np.mean(losses)), nll))
        if nll < best_nll:
            best, best_nll, best_epoch = tensors, nll, epoch + 1
        progress(len(frames) + epoch + 1, total)
    if not np.isfinite(best_nll):
        raise UserError("the classifier's loss is not finite: lower the learning rate")

    logits = _logits(best, held_features)
    temperature = fit_temperature(logits, held_labels)
    probabilities = sigmoid(logits / temperature)
    threshold = choose_threshold(probabilities, held_labels, config.precision)
    metrics = measure(probabilities, held_labels, threshold)
    report = {
        "train": _counts(split.train),
        "held_out": _counts(split.held_out),
        "held_out_metrics": asdict(metrics),
        "wanted_precision": config.precision,
        "precision_reached": (metrics.precision or 0.0) >= config.precision,
        "best_epoch": best_epoch,
        "train_loss": [round(a, 5) for a, _ in curve],
        "held_out_loss": [round(b, 5) for _, b in curve],
        "train_cpu_s": round(time.process_time() - began_s, 2),
        "seed": seed,
    }
    saved = SavedClassifier(
        config, best, features.shape[-1], temperature, threshold, task.name, view_hash(task, camera),
        encoder.weights_sha256, tuple(sorted({f.object for f in frames if f.object})),
        learn_box(frames, task), report,
    )  # fmt: skip
    return saved, contact_sheet(split.held_out, probabilities, threshold)


def predict(saved: SavedClassifier, frames: Sequence[Frame]) -> Float:
    """Return the calibrated probability of each frame (N,). Raises UserError on a corrupt JPEG."""
    features = encode_frames(frames, encoder_of(saved.config), 1)[:, 0].astype(np.float32)
    return sigmoid(_logits(saved.tensors, features) / saved.temperature)


def _logits(tensors: Tensors, features: NDArray[np.float32]) -> Float:
    return np.asarray(forward(tensors, features), np.float64)


def _labels(frames: Sequence[Frame]) -> Bool:
    return np.array([f.success for f in frames], bool)


def _epoch(labels: Bool, config: ClassifierConfig, rng: np.random.Generator) -> Any:
    """Yield batches of rows and crops: every negative once, and as many positives."""
    size = config.batch_per_class
    positive, negative = np.flatnonzero(labels), rng.permutation(np.flatnonzero(~labels))
    for start in range(0, len(negative), size):
        # The last batch is filled up, so that there is one shape to compile.
        part = np.resize(negative[start : start + size], size)
        rows = np.concatenate([rng.choice(positive, size), part])
        yield rows, rng.integers(0, config.crops, len(rows))


def _counts(frames: Sequence[Frame]) -> dict[str, int]:
    counts = Counter(f.success for f in frames)
    episodes = len({f.episode_id for f in frames})
    return {"positive": counts[True], "negative": counts[False], "episodes": episodes}
