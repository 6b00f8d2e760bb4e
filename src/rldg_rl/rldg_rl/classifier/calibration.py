"""Temperature, threshold and metrics from the logits of held-out frames, in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_rl.classifier.success import Hysteresis

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

TEMPERATURES = np.geomspace(0.5, 20.0, 200)
"""Candidates. At least 0.5, because perfectly separable frames would drive the temperature to 0."""


@dataclass(frozen=True)
class Metrics:
    """Metrics of frames at one threshold. precision, recall: None without a predicted or a true positive."""

    precision: float | None
    recall: float | None
    auc: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


@dataclass(frozen=True)
class EpisodeResult:
    """Result of one episode with hysteresis. fired: index of the frame that ended it, or None."""

    fired: int | None
    false_positive: bool
    false_negative: bool


def sigmoid(x: Float) -> Float:
    """Logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float64)


def balanced_nll(logits: Float, labels: Bool) -> float:
    """Return the negative log-likelihood per frame with equal weight for both classes."""
    losses = np.logaddexp(0.0, np.where(labels, -logits, logits))
    return float((losses[labels].mean() + losses[~labels].mean()) / 2)


def fit_temperature(logits: Float, labels: Bool) -> float:
    """Return the temperature with the smallest `balanced_nll` (Guo et al. 2017, temperature scaling)."""
    return float(min(TEMPERATURES, key=lambda t: balanced_nll(logits / t, labels)))


def choose_threshold(probabilities: Float, labels: Bool, precision: float, lowest: float = 0.5) -> float:
    """Return the lowest threshold with this precision, or else the one with the highest precision.

    It is the mean, in logits, of the two frames that it separates. Precision is measured on the given frames, in which
    successes are as rare as in held-out episodes.
    """
    scores = np.sort(probabilities[probabilities >= lowest])
    if not len(scores):
        return lowest
    below = np.concatenate([[lowest], scores[:-1]])
    cuts = sigmoid((_logit(below) + _logit(scores)) / 2)
    cuts = np.maximum(cuts[scores > below] if np.any(scores > below) else cuts[:1], lowest)
    reached = [measure(probabilities, labels, float(cut)).precision or 0.0 for cut in cuts]
    best = next((k for k, value in enumerate(reached) if value >= precision), int(np.argmax(reached)))
    return float(cuts[best])


def _logit(p: Float) -> Float:
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(p) - np.log1p(-p), np.float64)


def auc(scores: Float, labels: Bool) -> float:
    """Return the area under the ROC curve: the probability that a positive scores higher; ties count half."""
    order, first, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del order
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[first]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def measure(probabilities: Float, labels: Bool, threshold: float) -> Metrics:
    """Return the metrics of frames at a threshold. Both classes must be present."""
    predicted = probabilities > threshold
    tp, fp = int((predicted & labels).sum()), int((predicted & ~labels).sum())
    fn, tn = int((~predicted & labels).sum()), int((~predicted & ~labels).sum())
    return Metrics(
        tp / (tp + fp) if tp + fp else None, tp / (tp + fn) if tp + fn else None, auc(probabilities, labels),
        tp, fp, tn, fn,
    )  # fmt: skip


def judge_episode(
    over: Sequence[bool], truth: Sequence[bool], stamps_ns: Sequence[int], consecutive_frames: int, period_ns: int
) -> EpisodeResult:
    """Compare the result of an episode with ground truth, frame by frame.

    false_positive: a frame without success ended the episode; false_negative: a frame had success, none ended it.
    """
    hysteresis = Hysteresis(consecutive_frames, period_ns)
    for index, (stamp_ns, value) in enumerate(zip(stamps_ns, over, strict=True)):
        if hysteresis.update(stamp_ns, value):
            return EpisodeResult(index, not truth[index], False)
    return EpisodeResult(None, False, any(truth))
