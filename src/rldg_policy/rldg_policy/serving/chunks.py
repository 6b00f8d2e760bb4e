"""Selection of the action for a tick from action chunks, by the stamps of their observations.

A chunk inferred from the observation with stamp t holds the actions for t, t + P, ..., t + (H - 1) P, whenever it
arrives: actions whose time has passed are skipped, not delayed. No clock is read, so lock-step and real time share it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RULES = ("newest", "whole", "ensemble")
"""What happens where chunks overlap. newest: the newest chunk replaces older ones (receding horizon); whole: a chunk is
executed to its end before the next one is used (open loop); ensemble: weighted mean of all chunks that cover the tick
(temporal ensembling of ACT, arXiv:2304.13705, as Octo's TemporalEnsembleWrapper)."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Actions (H, A) in [-1, 1], inferred from the observation with `stamp_ns` by weights `version`."""

    stamp_ns: int
    values: NDArray[np.float32]
    version: int = 0


class ActionQueue:
    """Chunks of one policy in one episode. Ticks are queried in order."""

    def __init__(self, rule: str, period_ns: int, ensemble_k: float = 0.0) -> None:
        """ensemble_k: a prediction of age n ticks has the weight exp(k n). 0: mean; > 0: older predictions weigh more
        (exp_weight in Octo); < 0: newer ones weigh more."""
        self._rule, self._period_ns, self._k = rule, period_ns, ensemble_k
        self._chunks: deque[Chunk] = deque()
        self._current_chunk: Chunk | None = None

    def put(self, chunk: Chunk) -> None:
        """Add a chunk; it is ignored unless it is newer than all others."""
        if chunk.stamp_ns <= self.newest_ns:
            return
        if self._rule == "newest":
            self._chunks.clear()
        self._chunks.append(chunk)

    @property
    def newest_ns(self) -> int:
        """Stamp of the newest chunk, -1 if there is none."""
        return self._chunks[-1].stamp_ns if self._chunks else -1

    def covers(self, stamp_ns: int) -> bool:
        """Return whether there is an action for the tick with this stamp."""
        return any(0 <= self._age(c, stamp_ns) < len(c.values) for c in self._chunks)

    def action_at(self, stamp_ns: int) -> Chunk | None:
        """Return the action for a tick as a chunk of length 1, or None.

        Chunks that ended before the tick are dropped.
        """
        while self._chunks and self._age(self._chunks[0], stamp_ns) >= len(self._chunks[0].values):
            self._chunks.popleft()
        covering = [c for c in self._chunks if 0 <= self._age(c, stamp_ns) < len(c.values)]
        if not covering:
            return None
        if self._rule == "whole":
            return self._one(self._current(covering), stamp_ns)
        if self._rule == "newest" or len(covering) == 1:
            return self._one(covering[-1], stamp_ns)
        ages = np.array([self._age(c, stamp_ns) for c in covering])
        weights = np.exp(self._k * (ages - (ages[0] if self._k > 0 else ages[-1])))
        predictions = np.stack([c.values[age] for c, age in zip(covering, ages, strict=True)])
        mean = (weights / weights.sum()) @ predictions.astype(np.float64)
        return Chunk(stamp_ns, mean.astype(np.float32)[None], covering[-1].version)

    def clear(self) -> None:
        """Drop all chunks, for another episode or policy."""
        self._chunks.clear()

    def _current(self, covering: list[Chunk]) -> Chunk:
        """Rule `whole`: return the chunk in execution, else the newest one; older ones are dropped."""
        current = self._current_chunk if self._current_chunk in covering else covering[-1]
        while self._chunks[0] is not current:
            self._chunks.popleft()
        self._current_chunk = current
        return current

    def _one(self, chunk: Chunk, stamp_ns: int) -> Chunk:
        return Chunk(stamp_ns, chunk.values[self._age(chunk, stamp_ns)][None], chunk.version)

    def _age(self, chunk: Chunk, stamp_ns: int) -> int:
        """Return the ticks from a chunk's observation to a tick. Camera stamps jitter by less than half a period."""
        return (stamp_ns - chunk.stamp_ns + self._period_ns // 2) // self._period_ns
