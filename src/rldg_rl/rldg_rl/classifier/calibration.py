"""Logits of held-out frames -> temperature, threshold, metrics. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldg_rl.classifier.hysteresis import Hysteresis

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

TEMPERATURES = np.geomspace(0.5, 20.0, 200)
"""Searched. Not under 0.5: frames that separate perfectly would otherwise ask for certainty."""


@dataclass(frozen=True)
class Metrics:
    """Of frames at one threshold. precision and recall are None where nothing was predicted or present."""

    precision: float | None
    recall: float | None
    auc: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


@dataclass(frozen=True)
class EpisodeVerdict:
    """What a classifier with hysteresis made of one episode. fired: index of the frame that ended it, or None."""

    fired: int | None
    false_positive: bool
    false_negative: bool


def sigmoid(x: Float) -> Float:
    """Logistic function, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), np.float64)


def balanced_nll(logits: Float, labels: Bool) -> float:
    """Negative log-likelihood per frame when both classes have the same weight."""
    losses = np.logaddexp(0.0, np.where(labels, -logits, logits))
    return float((losses[labels].mean() + losses[~labels].mean()) / 2)


def fit_temperature(logits: Float, labels: Bool) -> float:
    """The temperature of the smallest `balanced_nll` (Guo et al. 2017, temperature scaling)."""
    return float(min(TEMPERATURES, key=lambda t: balanced_nll(logits / t, labels)))


def choose_threshold(probabilities: Float, labels: Bool, precision: float, lowest: float = 0.5) -> float:
    """The lowest threshold of this precision; where none has it, that of the highest precision.

    It lies half way (in logits) between the two frames that it separates. Precision is that of the frames as given:
    of held-out episodes, where successes are rare.
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
    """Area under the ROC curve: how often a positive scores higher than a negative; ties count half."""
    order, first, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del order
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[first]
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def measure(probabilities: Float, labels: Bool, threshold: float) -> Metrics:
    """Compare frames with their labels (both classes present)."""
    said = probabilities > threshold
    tp, fp = int((said & labels).sum()), int((said & ~labels).sum())
    fn, tn = int((~said & labels).sum()), int((~said & ~labels).sum())
    return Metrics(
        tp / (tp + fp) if tp + fp else None, tp / (tp + fn) if tp + fn else None, auc(probabilities, labels),
        tp, fp, tn, fn,
    )  # fmt: skip


def judge_episode(
    over: Sequence[bool], truth: Sequence[bool], stamps_ns: Sequence[int], consecutive_frames: int, period_ns: int
) -> EpisodeVerdict:
    """One episode, frame by frame, against ground truth.

    false_positive: it was ended by a frame on which the task had not succeeded; false_negative: the task succeeded
    on some frame and the episode was never ended.
    """
    hysteresis = Hysteresis(consecutive_frames, period_ns)
    for index, (stamp_ns, value) in enumerate(zip(stamps_ns, over, strict=True)):
        if hysteresis.update(stamp_ns, value):
            return EpisodeVerdict(index, not truth[index], False)
    return EpisodeVerdict(None, False, any(truth))
