"""From a Step to a row of replay: what is malformed is refused with the field's name, what was seen before is known."""

from __future__ import annotations

import hashlib

import numpy as np

from rldg_core.errors import UserError
from rldg_core.image_header import read_header
from rldg_core.task import Task
from rldg_core.types import Observation, Step
from rldg_rl.config import RLConfig
from rldg_rl.features import input_spec, stored_inputs
from rldg_rl.gripper_head import grasp_penalty
from rldg_rl.replay import Row

MAX_INDEX = 100_000
"""No episode is longer (task: at most 10,000 steps); bounds what a damaged index can cost."""


class Reader:
    """Makes rows: checks a Step and encodes its frame."""

    def __init__(self, config: RLConfig, task: Task) -> None:
        """Raises UserError when the task has no such camera or the encoder cannot be loaded."""
        self.spec = input_spec(task, config.features)
        self._inputs = stored_inputs(task, config.features)
        self._task = task
        self._penalty = config.agent.grasp_penalty
        self._camera = config.features.camera if self.spec.image_shape is not None else ""

    def row(self, step: Step) -> Row:
        """Raises ValueError `field: reason` when the Step cannot be learned from."""
        if not 0 <= step.index <= MAX_INDEX:
            raise ValueError(f"index: not in 0 .. {MAX_INDEX}")
        if not np.isfinite(step.reward):
            raise ValueError("reward: not finite")
        action, dim = None if step.is_last else step.action.executed, self._task.action.dim
        if action is not None and action.shape != (dim,):
            raise ValueError(f"action.executed: {len(action)} numbers, task {self._task.name} has {dim}")
        if action is not None and not np.all(np.isfinite(action)):
            raise ValueError("action.executed: not finite")
        self._check_image(step.observation)
        try:
            inputs = self._inputs(step.observation)
        except ValueError as error:
            raise ValueError(f"observation: {error}") from error
        width_m = step.observation.gripper_width_m
        penalty = 0.0 if action is None else grasp_penalty(action, width_m, self._penalty)
        return Row(step.episode_id, step.index, inputs, action, step.reward, step.terminated, penalty)

    def _check_image(self, observation: Observation) -> None:
        if not self._camera:
            return
        if self._camera not in observation.images:
            raise ValueError(f"observation.images: no camera {self._camera!r}")
        size = self._task.cameras[self._camera].image_size
        try:
            found = read_header(observation.images[self._camera])
        except ValueError as error:
            raise ValueError(f"observation.images[{self._camera}]: {error}") from error
        if (found.height, found.width) != (size, size):
            raise ValueError(
                f"observation.images[{self._camera}]: {found.width}x{found.height}, task says {size}x{size}"
            )


class Content:
    """What the Steps of every episode held, whatever stream brought them: one number each, whatever their order."""

    def __init__(self, sums: dict[str, int] | None = None) -> None:
        self._sums = dict(sums or {})

    def add(self, step: Step) -> None:
        """Take note of a Step: image, state, action and outcome."""
        seen, action = step.observation, step.action
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((step.index, seen.stamp_ns, step.instruction, step.reward, step.terminated)).encode())
        for values in (seen.pose_base_tcp, seen.twist_base_tcp, seen.wrench_tcp, action.executed):
            digest.update(np.ascontiguousarray(values).tobytes())
        for name, image in sorted(seen.images.items()):
            digest.update(name.encode() + b"\0" + image)
        number = int.from_bytes(digest.digest(), "big")
        self._sums[step.episode_id] = (self._sums.get(step.episode_id, 0) + number) % (1 << 128)

    def check(self, now: Content, where: str) -> None:
        """Raise UserError `where: ...` on an episode that is not in `now`, or has another content there."""
        for name, number in self._sums.items():
            if name not in now._sums:
                raise UserError(f"{where}: demonstration {name} is missing: put it back, or use a new run_dir")
            self.check_episode(name, number, now, where)

    def check_among(self, now: Content, where: str) -> None:
        """The same for the episodes that both know."""
        for name, number in self._sums.items():
            if name in now._sums:
                self.check_episode(name, number, now, where)

    @staticmethod
    def check_episode(name: str, number: int, now: Content, where: str) -> None:
        """One episode."""
        if now._sums[name] != number:
            raise UserError(
                f"{where}: episode {name} holds other images, states or actions than those that were learned from: put "
                "the bag back as it was, or use a new run_dir"
            )

    def to_json(self) -> dict[str, str]:
        """Episode -> hexadecimal number."""
        return {name: f"{number:032x}" for name, number in self._sums.items()}

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Content:
        """Inverse of `to_json`. Raises ValueError."""
        return cls({name: int(number, 16) for name, number in value.items()})


class Seen:
    """Which Steps were consumed, by episode id and index: one bit each."""

    def __init__(self, bits: dict[str, int] | None = None) -> None:
        self._bits = dict(bits or {})

    def __contains__(self, step: Step) -> bool:
        return bool(self._bits.get(step.episode_id, 0) >> max(0, step.index) & 1)

    def add(self, step: Step) -> None:
        """Mark a Step; an index out of range is not kept, since no row can come of it."""
        if 0 <= step.index <= MAX_INDEX:
            self._bits[step.episode_id] = self._bits.get(step.episode_id, 0) | 1 << step.index

    def count(self, episode_id: str) -> int:
        """Steps of this episode."""
        return self._bits.get(episode_id, 0).bit_count()

    def to_json(self) -> dict[str, str]:
        """Episode -> hexadecimal bits, in order of arrival."""
        return {name: f"{bits:x}" for name, bits in self._bits.items()}

    @classmethod
    def from_json(cls, value: dict[str, str]) -> Seen:
        """Inverse of `to_json`. Raises ValueError."""
        return cls({name: int(bits, 16) for name, bits in value.items()})
