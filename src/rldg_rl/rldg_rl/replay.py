"""Replay: rows in a numpy ring, linked only by episode id and index.

A row is one Step: its features and, unless it merely follows an intervention or ends an episode, a transition.
The next observation of row k is the row of index k + 1 of the same episode. Rows are written in order, so a
link always points to a newer row and can never outlive its target in the ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_rl.agent import Batch

NO_ROW = -1


@dataclass(frozen=True)
class Row:
    """What replay keeps of a Step. `action` is None when the row is no transition, only a next observation."""

    episode_id: str
    index: int
    features: NDArray[np.float32]
    action: NDArray[np.float32] | None
    reward: float
    terminated: bool


class Replay:
    """Ring of rows; samples n-step transitions.

    features are kept in `dtype` (float16 halves cached image features), everything else in float32.
    """

    def __init__(self, capacity: int, feature_dim: int, action_dim: int, dtype: type = np.float32) -> None:
        self.capacity = capacity
        self.rows = 0  # written so far
        self._features: NDArray[Any] = np.zeros((capacity, feature_dim), dtype)
        self._actions = np.zeros((capacity, action_dim), np.float32)
        self._rewards = np.zeros(capacity, np.float32)
        self._terminated = np.zeros(capacity, bool)
        self._next = np.full(capacity, NO_ROW, np.int64)
        self._transition = np.zeros(capacity, bool)
        self._newest: dict[str, tuple[int, int]] = {}  # open episode -> (row number, index) of its newest row
        # Slots that can be sampled, with O(1) insertion and removal.
        self._ready = np.zeros(capacity, np.int64)
        self._place = np.full(capacity, NO_ROW, np.int64)
        self._count = 0

    def __len__(self) -> int:
        """Transitions that can be sampled: their next observation is known."""
        return self._count

    def add(self, row: Row, is_last: bool = False) -> None:
        """Append a row and link it to its predecessor, if that is the row of index - 1 of the same episode."""
        number, slot = self.rows, self.rows % self.capacity
        self.rows += 1
        self._remove(slot)
        self._features[slot] = row.features
        self._transition[slot] = row.action is not None
        self._actions[slot] = 0.0 if row.action is None else row.action
        self._rewards[slot] = row.reward
        self._terminated[slot] = row.terminated
        self._next[slot] = NO_ROW
        before = self._newest.pop(row.episode_id, None)
        # An interleaved episode may have overwritten the predecessor.
        if before is not None and before[1] == row.index - 1 and number - before[0] < self.capacity:
            predecessor = before[0] % self.capacity
            self._next[predecessor] = slot
            if self._transition[predecessor]:
                self._insert(predecessor)
        if not is_last:
            self._newest[row.episode_id] = (number, row.index)

    def expects(self, episode_id: str, index: int) -> bool:
        """Whether a row of this episode waits for its next observation, and this is it."""
        newest = self._newest.get(episode_id)
        return newest is not None and newest[1] == index - 1

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...], n_step: int, discount: float) -> Batch:
        """Uniform n-step transitions of the given leading shape.

        The chain of rewards ends early at a termination (no bootstrap), and at a truncation, at the newest row or at
        the end of an intervention (bootstrap from the last observation reached). Raises ValueError when empty.
        """
        if not self._count:
            raise ValueError("replay holds no transition")
        start = self._ready[rng.integers(0, self._count, shape)]
        at = start.copy()
        returns = np.zeros(shape, np.float32)
        discounts = np.ones(shape, np.float32)
        going = np.ones(shape, bool)
        for _ in range(n_step):
            returns += np.where(going, discounts * self._rewards[at], 0.0)
            discounts = np.where(going, discounts * (discount * ~self._terminated[at]), discounts).astype(np.float32)
            after = np.where(going, self._next[at], at)
            going &= ~self._terminated[at]
            at = after
            going &= self._transition[at] & (self._next[at] != NO_ROW)
        return Batch(
            self._features[start].astype(np.float32),
            self._actions[start],
            returns,
            discounts,
            self._features[at].astype(np.float32),
        )

    def _insert(self, slot: int) -> None:
        self._ready[self._count] = slot
        self._place[slot] = self._count
        self._count += 1

    def _remove(self, slot: int) -> None:
        place = self._place[slot]
        if place == NO_ROW:
            return
        self._count -= 1
        last = self._ready[self._count]
        self._ready[place] = last
        self._place[last] = place
        self._place[slot] = NO_ROW


def sample_mixed(
    demonstrations: Replay,
    online: Replay,
    rng: np.random.Generator,
    updates: int,
    batch_size: int,
    n_step: int,
    discount: float,
) -> Batch:
    """`updates` batches, (updates, batch_size, ...): half demonstrations, half online.

    All from one while the other is empty. Raises ValueError when both are.
    """
    if not len(demonstrations) or not len(online):
        source = online if len(online) else demonstrations
        return source.sample(rng, (updates, batch_size), n_step, discount)
    halves = [source.sample(rng, (updates, batch_size // 2), n_step, discount) for source in (demonstrations, online)]
    return Batch(*(np.concatenate(pair, 1) for pair in zip(*halves, strict=True)))
