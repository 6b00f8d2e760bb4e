"""Converts Steps to rows of replay. Refuses malformed Steps by field, and keeps which Steps were consumed."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_header import read_header
from rldg_core.task import Task
from rldg_core.types import GRIPPER_THRESHOLD, Observation, Step
from rldg_rl.config import RLConfig
from rldg_rl.features import GRIPPER_OPEN_M, input_spec, stored_inputs
from rldg_rl.replay import Row
from rldg_rl.weights import ARM_DIM

MAX_INDEX = 100_000
"""Largest accepted index: a task has at most 10,000 steps, and a damaged index must not use up memory."""
GRIPPER_IS_OPEN_M = 0.9 * GRIPPER_OPEN_M
"""A wider gripper counts as open: 0.9 of the open width (HIL-SERL's wrapper of the USB task)."""


class StepReader:
    """Checks Steps and encodes their frames."""

    def __init__(self, config: RLConfig, task: Task) -> None:
        """Raises UserError when the task has no such camera or the encoder cannot be loaded."""
        self.spec = input_spec(task, config.features)
        self._inputs = stored_inputs(task, config.features)
        self._task = task
        self._penalty = config.agent.grasp_penalty
        self._camera = config.features.camera if self.spec.image_shape is not None else ""

    def row(self, step: Step) -> Row:
        """Return the row of a Step. Raises ValueError `field: reason` when the Step cannot be learned from."""
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


def grasp_penalty(action: NDArray[np.float32], gripper_width_m: float, penalty: float) -> float:
    """Return `penalty` when the command would change the state of the gripper, else 0; 0 without a gripper.

    gripper_width_m: measured before the action. Source: HIL-SERL's GripperPenaltyWrapper.
    """
    if len(action) <= ARM_DIM:
        return 0.0
    closes = action[ARM_DIM] < -GRIPPER_THRESHOLD and gripper_width_m > GRIPPER_IS_OPEN_M
    opens = action[ARM_DIM] > GRIPPER_THRESHOLD and gripper_width_m <= GRIPPER_IS_OPEN_M
    return penalty if closes or opens else 0.0


class EpisodeChecksums:
    """A checksum of the Steps of each episode that depends neither on their order nor on the stream they came by."""

    def __init__(self, sums: dict[str, int] | None = None) -> None:
        self._sums = dict(sums or {})

    def add(self, step: Step) -> None:
        """Add the images, state, action and outcome of a Step."""
        seen, action = step.observation, step.action
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((step.index, seen.stamp_ns, step.instruction, step.reward, step.terminated)).encode())
        for values in (seen.pose_base_tcp, seen.twist_base_tcp, seen.wrench_tcp, action.executed):
            digest.update(np.ascontiguousarray(values).tobytes())
        for name, image in sorted(seen.images.items()):
            digest.update(name.encode() + b"\0" + image)
        number = int.from_bytes(digest.digest(), "big")
        self._sums[step.episode_id] = (self._sums.get(step.episode_id, 0) + number) % (1 << 128)

    def check(self, now: EpisodeChecksums, where: str) -> None:
        """Raise UserError `where: ...` on an episode that is not in `now`, or has another content there."""
        for name, number in self._sums.items():
            if name not in now._sums:
                raise UserError(f"{where}: demonstration {name} is missing: put it back, or use a new run_dir")
            self.check_episode(name, number, now, where)

    def check_among(self, now: EpisodeChecksums, where: str) -> None:
        """Raise UserError `where: ...` on an episode that is in both and has another content in `now`."""
        for name, number in self._sums.items():
            if name in now._sums:
                self.check_episode(name, number, now, where)

    @staticmethod
    def check_episode(name: str, number: int, now: EpisodeChecksums, where: str) -> None:
        """Raise UserError `where: ...` when the checksum of an episode is not `number` in `now`."""
        if now._sums[name] != number:
            raise UserError(
                f"{where}: episode {name} holds other images, states or actions than those that were learned from: put "
                "the bag back as it was, or use a new run_dir"
            )

    def to_json(self) -> dict[str, str]:
        """Return episode -> hexadecimal checksum."""
        return {name: f"{number:032x}" for name, number in self._sums.items()}

    @classmethod
    def from_json(cls, value: dict[str, str]) -> EpisodeChecksums:
        """Inverse of `to_json`. Raises ValueError."""
        return cls({name: int(number, 16) for name, number in value.items()})


class ConsumedSteps:
    """The set of Steps that were consumed, as one bit for each episode id and index."""

    def __init__(self, bits: dict[str, int] | None = None) -> None:
        self._bits = dict(bits or {})

    def __contains__(self, step: Step) -> bool:
        return bool(self._bits.get(step.episode_id, 0) >> max(0, step.index) & 1)

    def add(self, step: Step) -> None:
        """Add a Step; an index out of range is ignored, since such a Step is refused."""
        if 0 <= step.index <= MAX_INDEX:
            self._bits[step.episode_id] = self._bits.get(step.episode_id, 0) | 1 << step.index

    def count(self, episode_id: str) -> int:
        """Return the number of Steps of an episode."""
        return self._bits.get(episode_id, 0).bit_count()

    def to_json(self) -> dict[str, str]:
        """Return episode -> hexadecimal bits, in order of arrival."""
        return {name: f"{bits:x}" for name, bits in self._bits.items()}

    @classmethod
    def from_json(cls, value: dict[str, str]) -> ConsumedSteps:
        """Inverse of `to_json`. Raises ValueError."""
        return cls({name: int(bits, 16) for name, bits in value.items()})
