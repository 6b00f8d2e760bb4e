"""Replay against a plain model: no wrong transition over interventions, truncation, wrap-around, interleaving."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_rl.replay import Replay, Row, sample_mixed

DISCOUNT = 0.9


@dataclass(frozen=True)
class Item:
    """One row as the model remembers it; `value` marks its observation."""

    episode: int
    index: int
    value: int
    transition: bool
    reward: float
    terminated: bool
    is_last: bool


@st.composite
def streams(draw: st.DrawFn) -> list[Item]:
    """Rows of up to four interleaved episodes: terminated, truncated or cut off, with gaps and mere observations."""
    episodes = []
    for name in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 8))
        end = draw(st.sampled_from(["terminated", "truncated", "cut"]))
        rows = []
        for index in range(length + (end != "cut")):
            last = end != "cut" and index == length
            transition = not last and draw(st.booleans())
            terminal = end == "terminated" and index >= length - 1
            reward = float(draw(st.integers(0, 3))) if transition else 0.0
            rows.append((name, index, transition, reward, terminal, last))
        missing = draw(st.sets(st.integers(0, length), max_size=2))
        episodes.append([row for row in rows if row[1] not in missing])
    stream = []
    value = 0
    while any(episodes):
        waiting = [episode for episode in episodes if episode]
        name, index, transition, reward, terminal, last = draw(st.sampled_from(waiting)).pop(0)
        value += 1
        stream.append(Item(name, index, value, transition, reward, terminal, last))
    return stream


def fill(replay: Replay, stream: list[Item]) -> None:
    """Write the stream."""
    for item in stream:
        action = np.full(2, item.value, np.float32) if item.transition else None
        features = np.full(3, item.value, np.float32)
        replay.add(Row(str(item.episode), item.index, features, action, item.reward, item.terminated), item.is_last)


def expected(alive: list[Item], start: Item, n_step: int) -> tuple[float, float, int] | None:
    """Return, discount and next observation of the n-step transition of `start`, or None when it has no next row."""
    at = {(item.episode, item.index): item for item in alive}
    total, discount, item = 0.0, 1.0, start
    for _ in range(n_step):
        after = at.get((item.episode, item.index + 1))
        if not item.transition or after is None:
            break
        total += discount * item.reward
        discount *= DISCOUNT * (not item.terminated)
        terminated, item = item.terminated, after
        if terminated:
            break
    return None if item is start else (total, discount, item.value)


@settings(max_examples=150, deadline=None)
@given(streams(), st.integers(2, 40), st.sampled_from([1, 3]))
def test_every_transition_is_right(stream: list[Item], capacity: int, n_step: int) -> None:
    replay = Replay(capacity, 3, 2)
    fill(replay, stream)
    alive = stream[-capacity:]
    # A row whose predecessor left the ring still follows it; a row that left is nobody's successor.
    wanted = {i.value: expected(alive, i, n_step) for i in alive if i.transition}
    wanted = {value: result for value, result in wanted.items() if result}
    assert len(replay) == len(wanted)
    if not wanted:
        with pytest.raises(ValueError, match="no transition"):
            replay.sample(np.random.default_rng(0), (1,), n_step, DISCOUNT)
        return
    batch = replay.sample(np.random.default_rng(0), (64 * len(wanted),), n_step, DISCOUNT)
    starts = batch.observations[:, 0].astype(int)
    assert set(starts) == set(wanted)
    for row, value in enumerate(starts):
        total, discount, after = wanted[value]  # type: ignore[misc]
        assert batch.actions[row].tolist() == [value, value]
        assert batch.returns[row] == pytest.approx(total)
        assert batch.discounts[row] == pytest.approx(discount)
        assert batch.next_observations[row, 0] == after


def add_episode(replay: Replay, name: str, length: int, terminated: bool, base: int) -> None:
    """`length` transitions and the last observation."""
    for index in range(length + 1):
        last = index == length
        action = None if last else np.zeros(2, np.float32)
        row = Row(name, index, np.full(3, base + index, np.float32), action, 0.0, terminated and index >= length - 1)
        replay.add(row, last)


def test_truncation_bootstraps_from_its_own_last_observation_and_termination_does_not() -> None:
    replay = Replay(100, 3, 2)
    add_episode(replay, "truncated", 3, terminated=False, base=10)
    add_episode(replay, "terminated", 3, terminated=True, base=20)
    batch = replay.sample(np.random.default_rng(0), (200,), 1, DISCOUNT)
    found = {int(o): (int(n), round(float(d), 3)) for o, n, d in zip(
        batch.observations[:, 0], batch.next_observations[:, 0], batch.discounts, strict=True
    )}  # fmt: skip
    assert found[12] == (13, 0.9)
    assert found[22] == (23, 0.0)
    assert 13 not in found
    assert 23 not in found


def test_half_demonstrations_half_online() -> None:
    demonstrations, online = Replay(50, 3, 2), Replay(50, 3, 2)
    add_episode(demonstrations, "d", 5, True, 100)
    rng = np.random.default_rng(0)
    only = sample_mixed(demonstrations, online, rng, 2, 8, 1, DISCOUNT)
    assert only.observations.shape == (2, 8, 3)
    add_episode(online, "o", 5, True, 0)
    both = sample_mixed(demonstrations, online, rng, 4, 8, 1, DISCOUNT)
    assert ((both.observations[..., 0] >= 100).sum(1) == 4).all()
