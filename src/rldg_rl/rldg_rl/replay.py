"""The replay buffer: one row per Step, shared by two views, online and demonstrations.

The next observation of a row is the row with index + 1 of the same episode; rows are linked in no other way. The row of
an intervention is stored once and belongs to both views. Each view has its own capacity and drops its oldest row first;
a row is freed when no view holds it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from rldg_rl.agent import Batch
from rldg_rl.inputs import Inputs, InputSpec

NO_ROW = -1
PIXEL_LEVEL = 1
"""zstd level of pixels. Wrist images of the cell: 7.8 kB, 0.04 ms to read (PNG level 1: 7.3 kB, 0.30 ms)."""

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """What replay stores of a Step. inputs: as in `InputSpec`; action: None in the last Step of an episode."""

    episode_id: str
    index: int
    inputs: Inputs
    action: NDArray[np.float32] | None
    reward: float
    terminated: bool
    grasp_penalty: float = 0.0


class Frames:
    """Inputs of the rows by slot. Each image is allocated on its own, so that memory grows with the rows stored."""

    def __init__(self, spec: InputSpec, slots: int) -> None:
        self._spec = spec
        self._states = np.zeros((slots, spec.state_dim), np.float32)
        self._images: dict[int, Any] = {}  # features: (crops, *shape) float16; pixels: zstd
        self._compressor = zstandard.ZstdCompressor(PIXEL_LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def put(self, slot: int, inputs: Inputs) -> None:
        """Store a frame. Raises ValueError when its shapes differ from the specification."""
        spec = self._spec
        if np.shape(inputs.state) != (spec.state_dim,):
            raise ValueError(f"state of shape {np.shape(inputs.state)}, expected ({spec.state_dim},)")
        if spec.image_shape is not None:
            stored = spec.image_shape if spec.pixels else (spec.crops, *spec.image_shape)
            if np.shape(inputs.image) != stored:
                raise ValueError(f"image of shape {np.shape(inputs.image)}, expected {stored}")
            # A copy: the caller's array may be a view of something larger.
            image = np.array(inputs.image, spec.image_dtype, order="C")
            # zstandard returns an object as large as the worst case: copy what it uses.
            self._images[slot] = bytes(memoryview(self._compressor.compress(image.data))) if spec.pixels else image
        self._states[slot] = inputs.state

    def forget(self, slot: int) -> None:
        """Free the image of a slot."""
        self._images.pop(slot, None)

    def take(self, slots: Slots, rng: np.random.Generator) -> Inputs:
        """Return the Inputs of slots, (*slots.shape, ...); of features, one stored crop each, drawn at random."""
        spec, states = self._spec, self._states[slots]
        if spec.image_shape is None:
            return Inputs(states, None)
        images = np.empty((slots.size, *spec.image_shape), spec.image_dtype)
        if spec.pixels:
            for place, slot in enumerate(slots.flat):
                data = self._decompressor.decompress(self._images[int(slot)])
                images[place] = np.frombuffer(data, np.uint8).reshape(spec.image_shape)
        else:
            crops = rng.integers(0, spec.crops, slots.size)
            for place, (slot, crop) in enumerate(zip(slots.flat, crops, strict=True)):
                images[place] = self._images[int(slot)][crop]
        return Inputs(states, images.reshape(*slots.shape, *spec.image_shape))


class View:
    """The rows of one view in order of arrival. len(): number of transitions that can be sampled."""

    def __init__(self, capacity: int, slots: int) -> None:
        self.capacity = capacity
        self.members: deque[int] = deque()
        self.held = np.zeros(slots, bool)
        self.transition = np.zeros(slots, bool)
        """Held for its action, and not only as the next observation of another row."""
        # `ready[:count]`: slots that can be sampled; `place`: their position in it. O(1) insertion and removal.
        self.ready: Slots = np.zeros(slots, np.int64)
        self.place: Slots = np.full(slots, NO_ROW, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, slot: int, transition: bool) -> None:
        """Add a row."""
        self.members.append(slot)
        self.held[slot], self.transition[slot] = True, transition

    def pop_oldest(self) -> int:
        """Remove the oldest row and return its slot."""
        slot = self.members.popleft()
        self.held[slot] = self.transition[slot] = False
        self.refresh(slot, NO_ROW)
        return slot

    def refresh(self, slot: int, after: int) -> None:
        """Update whether a row can be sampled, given that its next row is `after` (NO_ROW: none)."""
        wanted = bool(self.transition[slot]) and after != NO_ROW and bool(self.held[after])
        place = self.place[slot]
        if wanted and place == NO_ROW:
            self.ready[self._count], self.place[slot] = slot, self._count
            self._count += 1
        elif not wanted and place != NO_ROW:
            self._count -= 1
            last = self.ready[self._count]
            self.ready[place], self.place[last], self.place[slot] = last, place, NO_ROW


class Replay:
    """The replay buffer: rows and two views of them."""

    def __init__(self, spec: InputSpec, action_dim: int, online_capacity: int, demo_capacity: int) -> None:
        slots = online_capacity + demo_capacity + 1
        self.online, self.demonstrations = View(online_capacity, slots), View(demo_capacity, slots)
        self._views = (self.online, self.demonstrations)
        self._frames = Frames(spec, slots)
        self._actions = np.zeros((slots, action_dim), np.float32)
        self._rewards = np.zeros(slots, np.float32)
        self._penalties = np.zeros(slots, np.float32)
        self._terminated = np.zeros(slots, bool)
        self._next: Slots = np.full(slots, NO_ROW, np.int64)
        self._before: Slots = np.full(slots, NO_ROW, np.int64)
        self._keys: dict[int, tuple[str, int]] = {}
        self._slots: dict[tuple[str, int], int] = {}
        self._free: list[int] = []
        self._used = 0

    @property
    def rows(self) -> int:
        """Rows stored."""
        return len(self._keys)

    def add(self, row: Row, *, online: bool, demonstration: bool) -> None:
        """Store a row for one view or both, and link it with its neighbours, in whatever order they arrive.

        A row with the same episode and index as a stored one is ignored. Raises ValueError on inputs of another shape.
        """
        key = (row.episode_id, row.index)
        if key in self._slots:
            return
        slot = self._free.pop() if self._free else self._used
        try:
            self._frames.put(slot, row.inputs)
        except ValueError:
            self._free += [slot] if slot < self._used else []
            raise
        self._used = max(self._used, slot + 1)
        self._actions[slot] = 0.0 if row.action is None else row.action
        self._rewards[slot], self._penalties[slot] = row.reward, row.grasp_penalty
        self._terminated[slot] = row.terminated
        self._keys[slot], self._slots[key] = key, slot
        for view, wanted in zip(self._views, (online, demonstration), strict=True):
            if wanted:
                self._hold(view, slot, row.action is not None)
        self._link(self._slots.get((row.episode_id, row.index - 1)), slot)
        self._link(slot, self._slots.get((row.episode_id, row.index + 1)))

    def sample(
        self, view: View, rng: np.random.Generator, shape: tuple[int, ...], n_step: int, discount: float
    ) -> Batch:
        """Sample n-step transitions of a view uniformly, with the given leading shape.

        The sum of rewards ends early at a termination (no bootstrap), and at a truncation, a lost Step, the newest row
        or the last row of the view, such as the end of an intervention (bootstrap from the last observation reached).
        Raises ValueError when the view is empty.
        """
        if not len(view):
            raise ValueError("replay holds no transition")
        start = view.ready[rng.integers(0, len(view), shape)]
        at = start.copy()
        returns, penalties = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        discounts, going = np.ones(shape, np.float32), np.ones(shape, bool)
        for _ in range(n_step):
            returns += np.where(going, discounts * self._rewards[at], 0.0)
            penalties += np.where(going, discounts * self._penalties[at], 0.0)
            ends = self._terminated[at]
            discounts = np.where(going, discounts * (discount * ~ends), discounts).astype(np.float32)
            at = np.where(going, self._next[at], at)
            going &= ~ends & (view.place[at] != NO_ROW)
        observations = self._frames.take(start, rng)
        return Batch(observations, self._actions[start], returns, discounts, self._frames.take(at, rng), penalties)

    def sample_mixed(
        self, rng: np.random.Generator, updates: int, batch_size: int, n_step: int, discount: float
    ) -> Batch:
        """Sample `updates` batches, (updates, batch_size, ...): half demonstrations, half online.

        All transitions are of one view while the other is empty. Raises ValueError when both are empty.
        """
        if not len(self.demonstrations) or not len(self.online):
            view = self.online if len(self.online) else self.demonstrations
            return self.sample(view, rng, (updates, batch_size), n_step, discount)
        shape = (updates, batch_size // 2)
        halves = [self.sample(view, rng, shape, n_step, discount) for view in (self.demonstrations, self.online)]
        return Batch(*(_joined(*pair) for pair in zip(*halves, strict=True)))

    def _hold(self, view: View, slot: int, transition: bool) -> None:
        if len(view.members) == view.capacity:
            oldest = view.pop_oldest()
            self._refresh(view, int(self._before[oldest]))
            if not any(v.held[oldest] for v in self._views):
                self._forget(oldest)
        view.append(slot, transition)

    def _link(self, before: int | None, after: int | None) -> None:
        if before is None or after is None:
            return
        self._next[before], self._before[after] = after, before
        for view in self._views:
            if view.transition[before] and not view.held[after]:
                # The row after an intervention: needed as its next observation, but its action is the policy's.
                self._hold(view, after, transition=False)
            self._refresh(view, before)

    def _refresh(self, view: View, slot: int) -> None:
        if slot != NO_ROW:
            view.refresh(slot, int(self._next[slot]))

    def _forget(self, slot: int) -> None:
        before, after = int(self._before[slot]), int(self._next[slot])
        if before != NO_ROW:
            self._next[before] = NO_ROW
        if after != NO_ROW:
            self._before[after] = NO_ROW
        self._before[slot] = self._next[slot] = NO_ROW
        del self._slots[self._keys.pop(slot)]
        self._frames.forget(slot)
        self._free.append(slot)


def _joined(first: Any, second: Any) -> Any:
    """Concatenate along the batch axis."""
    if isinstance(first, Inputs):
        return Inputs(*(_joined(*pair) for pair in zip(first, second, strict=True)))
    return None if first is None else np.concatenate([first, second], 1)
