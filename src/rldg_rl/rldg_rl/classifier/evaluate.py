"""Evaluates a trained classifier on labelled episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from rldg_core.errors import UserError
from rldg_core.task import BoxConfig, Task
from rldg_rl.classifier.calibration import Float, Metrics, judge_episode, measure
from rldg_rl.classifier.frames import Frame
from rldg_rl.classifier.success import in_box


@dataclass(frozen=True)
class Evaluation:
    """frames: each on its own, by its image; episodes with success box and hysteresis, see `calibration.judge_episode`.

    An episode that ends at its success has one frame of it, too few for hysteresis: false negatives are counted
    without hysteresis.
    """

    frames: Metrics
    episodes: int
    successful_episodes: int
    consecutive_frames: int
    false_positive_episodes: int
    false_negative_episodes: int


def evaluate_frames(
    frames: Sequence[Frame], probabilities: Float, threshold: float, task: Task, box: BoxConfig | None
) -> Evaluation:
    """Compare probabilities with labels. Raises UserError when a class is missing.

    box: success box for the episodes; frames without a pose count as inside.
    """
    labels = np.array([f.success for f in frames], bool)
    if len(set(labels.tolist())) < 2:
        raise UserError(f"the episodes hold no {'negative' if labels.all() else 'positive'} frame to measure on")
    wanted, period_ns = task.reward.consecutive_frames, task.period_ns
    order = sorted(range(len(frames)), key=lambda k: (frames[k].episode_id, frames[k].stamp_ns))
    episodes = successes = false_positives = false_negatives = 0
    for _, group in groupby(order, key=lambda k: frames[k].episode_id):
        indices = list(group)
        over = [bool(probabilities[k] > threshold) and _inside(frames[k], task, box) for k in indices]
        truth = [frames[k].success for k in indices]
        stamps = [frames[k].stamp_ns for k in indices]
        episodes, successes = episodes + 1, successes + any(truth)
        false_positives += judge_episode(over, truth, stamps, wanted, period_ns).false_positive
        false_negatives += any(truth) and not any(o and t for o, t in zip(over, truth, strict=True))
    return Evaluation(
        measure(probabilities, labels, threshold), episodes, successes, wanted, false_positives, false_negatives
    )


def _inside(frame: Frame, task: Task, box: BoxConfig | None) -> bool:
    return frame.pose_base_tcp is None or in_box(box, task, frame.pose_base_tcp)
