"""A finding: a problem and its location."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rldg_data.plausibility import Limits, Problem, Problems, Severity

__all__ = ["Finding", "Findings", "Limits", "Problem", "Problems", "Severity", "finding_at"]


@dataclass(frozen=True)
class Finding:
    """error: wrong for training, or unreadable for a loader; warning: suspicious.

    episode: split, number and id, or the name of the bag; "" for the dataset as a whole.
    """

    severity: Severity
    check: str
    episode: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}: {self.episode or 'dataset'}: {self.message}"


Findings = Iterator[Finding]

DESCRIPTIONS: Mapping[str, str] = {
    "not_finite": "NaN or Inf in an action, state, twist, wrench, reward or timestamp",
    "stamps": "stamps that do not increase",
    "gap": "a pause between two steps: warning from 2.5 periods on, from five on an error",
    "rate": "the rate by the stamps is not the declared one, or not that of the other episodes (10 %)",
    "implausible": "a pose, width, twist or wrench that no arm has: a wrong unit, a quaternion in another order",
    "jump": "the tcp moves farther in a step than 1.5 of the longest actions: several episodes in one, or a wrong unit",
    "motion": "the arm moves or turns against its actions, along other axes, or four times as far; not if relabelled",
    "twist": "the twist is not that of the poses: swapped, another frame or unit; warning: zeros while the tcp moves",
    "wrench": "warning: torques that no force on a lever of 1 m explains: force and torque swapped",
    "flags": "`is_first`, `is_last`, `is_terminal` contradict their place, or a success is not terminal",
    "instruction": "empty, longer than 500 characters, or with a line break or control character",
    "reward": "a failure whose last transition has a reward; warning: a failure with one before, a success without",
    "names": "task, object or episode id is empty, longer than 500 characters, or has a line break",
    "no_op": "warning: more than half of the steps move nothing",
    "gripper": "commands outside 0 .. 1, or fingers that answer the other way",
    "image": "no complete 8-bit RGB JPEG",
    "pixels": "an image that does not decode or shows one brightness alone; two cameras with the same images",
    "frozen": "the image stays while the tcp moves: warning; in more than 60 % of the steps an error",
    "image_size": "images of several sizes, or too few; warning: not square, below 64 px",
    "constant": "warning: a dimension that never changes: a sensor that is not connected, a wrong topic",
    "saturation": "warning: more than 70 % of the steps at the largest value of an axis",
    "duplicate": "the content of another episode under another id",
    "leakage": "recorded steps that are in `train` and in `val`",
    "provenance": "episode metadata that do not name their recordings",
    "camera": "one image key that was taken by different cameras, or through different views",
    "statistics": "`dataset_statistics.json` is not that of the data",
    "bag": "a bag that cannot be exported",
}
"""Every check of datasets; an error unless marked as a warning. docs/reference/data.md has the same table."""


def finding_at(episode: str, problem: Problem) -> Finding:
    """The finding of a problem in an episode."""
    return Finding(problem.severity, problem.check, episode, problem.message)
