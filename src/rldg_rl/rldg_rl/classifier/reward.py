"""Applies a trained classifier: probability of success, and success with hysteresis.

classifier = RewardClassifier.load(Path("runs/insertion/a/classifier"), task)
judge = SuccessJudge(classifier, task)
ended = judge(observation)          # every observation of an episode, in order
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldg_core.files import sha256_hex
from rldg_core.task import Task
from rldg_core.types import Observation
from rldg_rl.classifier.checkpoint import SavedClassifier, camera_of, check_encoder, check_task, read_classifier
from rldg_rl.classifier.features import encoder_of
from rldg_rl.classifier.model import forward
from rldg_rl.classifier.success import Hysteresis, in_box
from rldg_rl.encoders.frozen import IMAGE_SIZE, FrozenEncoder
from rldg_rl.features import camera_image
from rldg_rl.weights import pack


class RewardClassifier:
    """A frozen encoder and a trained head."""

    def __init__(self, saved: SavedClassifier, encoder: FrozenEncoder, camera: str) -> None:
        self.saved, self.threshold = saved, saved.threshold
        self._encoder, self.camera = encoder, camera

    @classmethod
    def load(cls, folder: Path, task: Task) -> RewardClassifier:
        """Read a `classifier` folder and compile. Raises UserError on damage, another task, view or encoder."""
        saved = read_classifier(folder)
        camera = camera_of(saved.config, task)
        check_task(saved, task, camera, str(folder))
        encoder = encoder_of(saved.config)
        check_encoder(saved, encoder.weights_sha256, str(folder))
        classifier = cls(saved, encoder, camera)
        classifier.probability_of_image(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
        return classifier

    @property
    def identity(self) -> str:
        """`Reward.source`: classifier:<first digits of the SHA-256 of its head>."""
        return f"classifier:{sha256_hex(pack(self.saved.tensors))[:12]}"

    def probability(self, observation: Observation) -> float:
        """Calibrated probability of success (equal odds), [0, 1]. Raises ValueError on a missing or broken image."""
        return self.probability_of_image(camera_image(observation, self.camera))

    def probability_of_image(self, image: NDArray[np.uint8]) -> float:
        """Return the probability of success of an image (128, 128, 3) uint8 RGB."""
        features = self._encoder.encode(image[None]).reshape(1, -1).astype(np.float32)
        logit = float(forward(self.saved.tensors, features)[0]) / self.saved.temperature
        if not math.isfinite(logit):  # NaN would count as a frame without success
            raise ValueError("the classifier's output is not finite")
        return 0.5 * (1.0 + math.tanh(0.5 * logit))


@dataclass(frozen=True)
class Judgement:
    """Result of one observation. over: threshold exceeded and tcp in the success box; success: after hysteresis."""

    probability: float
    over: bool
    success: bool


class SuccessJudge:
    """Decides success: classifier, success box and hysteresis. A gap in the stamps and `start` restart the count.

    The box is the task's (`reward.success_box`), else the one that training found (`success.learn_box`).
    """

    def __init__(self, classifier: RewardClassifier, task: Task, consecutive_frames: int | None = None) -> None:
        """consecutive_frames: default the task's (`reward.consecutive_frames`)."""
        self._classifier, self._task = classifier, task
        self._box = task.reward.success_box or classifier.saved.success_box
        self._hysteresis = Hysteresis(consecutive_frames or task.reward.consecutive_frames, task.period_ns)

    def start(self, first_stamp_ns: int) -> None:
        """Start an episode at the observation of this stamp."""
        self._hysteresis.start(first_stamp_ns)

    def judge(self, observation: Observation) -> Judgement:
        """Return the result of the next observation. Raises ValueError on a missing or broken image."""
        probability = self._classifier.probability(observation)
        over = probability > self._classifier.threshold and in_box(self._box, self._task, observation.pose_base_tcp)
        return Judgement(probability, over, self._hysteresis.update(observation.stamp_ns, over))

    def __call__(self, observation: Observation) -> bool:
        """Return whether the task has succeeded."""
        return self.judge(observation).success
