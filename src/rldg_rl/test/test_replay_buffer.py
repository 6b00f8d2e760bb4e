"""Replay compared with a simple model: no wrong transition for any order, loss, repetition, intervention or end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_rl.agent import Batch
from rldg_rl.inputs import Inputs, InputSpec
from rldg_rl.replay import Replay, Row, View

DISCOUNT = 0.9
STATE = InputSpec(3, None, "float16", 1)
FEATURES = InputSpec(3, (5,), "float16", 3)
PIXELS = InputSpec(3, (4, 4, 3), "uint8", 1)


@dataclass(frozen=True)
class Item:
    """One row as the model stores it; `value` marks its observation and, with a decimal, the crop."""

    episode: int
    index: int
    value: int
    acts: bool
    intervention: bool
    demonstration: bool
    reward: float
    terminated: bool


def inputs(value: int, spec: InputSpec) -> Inputs:
    """Return a frame whose values are its number."""
    state = np.full(spec.state_dim, value, np.float32)
    if spec.image_shape is None:
        return Inputs(state, None)
    if spec.pixels:
        return Inputs(state, np.full(spec.image_shape, value, np.uint8))
    crops = np.arange(spec.crops, dtype=np.float16) / 4 + value
    return Inputs(state, np.broadcast_to(crops[:, None], (spec.crops, *spec.image_shape)))


@st.composite
def streams(draw: st.DrawFn) -> list[Item]:
    """Draw rows of up to four interleaved episodes, online or demonstrations: intervention segments, terminated,
    truncated or cut-off episodes, Steps lost, repeated and out of order."""
    episodes = []
    for name in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 10))
        end = draw(st.sampled_from(["terminated", "truncated", "cut"]))
        demonstration = draw(st.booleans())
        segments = draw(st.lists(st.integers(1, 4), min_size=10, max_size=10))
        by_human = np.repeat(np.arange(10) % 2 == 1, segments)
        rows = []
        for index in range(length + (end != "cut")):
            acts = end == "cut" or index < length
            terminal = end == "terminated" and index >= length - 1
            reward = float(draw(st.integers(0, 3))) if acts else 0.0
            intervention = acts and bool(by_human[index])
            rows.append(Item(name, index, 0, acts, intervention, demonstration, reward, terminal))
        lost = draw(st.sets(st.integers(0, length), max_size=2))
        rows = [row for row in rows if row.index not in lost]
        if draw(st.booleans()) and rows:
            rows.insert(draw(st.integers(0, len(rows))), draw(st.sampled_from(rows)))
        if draw(st.integers(0, 3)) == 0:
            rows = draw(st.permutations(rows))
        episodes.append(rows)
    stream: list[Item] = []
    while any(episodes):
        item = draw(st.sampled_from([episode for episode in episodes if episode])).pop(0)
        stream.append(replace(item, value=item.episode * 20 + item.index + 1))
    return stream


def fill(replay: Replay, stream: list[Item], spec: InputSpec) -> None:
    """Write the stream into the replay."""
    for item in stream:
        action = np.full(2, item.value, np.float32) if item.acts else None
        penalty = -item.value / 100 if item.acts else 0.0
        seen = inputs(item.value, spec)
        row = Row(str(item.episode), item.index, seen, action, item.reward, item.terminated, penalty)
        demonstration = item.demonstration or item.intervention
        replay.add(row, online=not item.demonstration, demonstration=demonstration)


class Model:
    """The two views as lists of rows in order of arrival, without the oldest; transitions are found by their name."""

    def __init__(self, capacities: tuple[int, int]) -> None:
        self.capacities = capacities
        self.rows: dict[tuple[int, int], Item] = {}
        self.views: tuple[list[tuple[int, int, bool]], list[tuple[int, int, bool]]] = ([], [])

    def _hold(self, which: int, item: Item, transition: bool) -> None:
        view = self.views[which]
        if any(entry[:2] == (item.episode, item.index) for entry in view):
            return
        if len(view) == self.capacities[which]:
            episode, index, _ = view.pop(0)
            if not any(entry[:2] == (episode, index) for v in self.views for entry in v):
                del self.rows[episode, index]
        view.append((item.episode, item.index, transition))

    def add(self, item: Item) -> None:
        """Add one row; a known one changes nothing."""
        key = (item.episode, item.index)
        if key in self.rows:
            return
        self.rows[key] = item
        if not item.demonstration:
            self._hold(0, item, item.acts)
        if item.demonstration or item.intervention:
            self._hold(1, item, item.acts)
        for before, after in ((key[1] - 1, key[1]), (key[1], key[1] + 1)):
            for which, view in enumerate(self.views):
                if (item.episode, before, True) in view and (item.episode, after) in self.rows:
                    self._hold(which, self.rows[item.episode, after], False)

    def expected(self, which: int, n_step: int) -> dict[int, tuple[float, float, float, int]]:
        """Map the start of every transition of a view to return, penalties, discount and next observation."""
        view = {(episode, index): acts for episode, index, acts in self.views[which]}
        found = {}
        for episode, index in [key for key, acts in view.items() if acts]:
            total, penalty, discount, at = 0.0, 0.0, 1.0, index
            for _ in range(n_step):
                if not view.get((episode, at)) or (episode, at + 1) not in view:
                    break
                item = self.rows[episode, at]
                total += discount * item.reward
                penalty -= discount * item.value / 100
                discount *= DISCOUNT * (not item.terminated)
                at += 1
                if item.terminated:
                    break
            if at != index:
                found[self.rows[episode, index].value] = (total, penalty, discount, self.rows[episode, at].value)
        return found


def check(replay: Replay, view: View, wanted: dict[int, tuple[float, float, float, int]], n_step: int) -> None:
    """Check that the view holds every transition and nothing else."""
    assert len(view) == len(wanted)
    if not wanted:
        with pytest.raises(ValueError, match="no transition"):
            replay.sample(view, np.random.default_rng(0), (1,), n_step, DISCOUNT)
        return
    batch = replay.sample(view, np.random.default_rng(0), (40 * len(wanted),), n_step, DISCOUNT)
    starts = batch.observations.state[:, 0].astype(int)
    assert set(starts) == set(wanted)
    for row, value in enumerate(starts):
        total, penalty, discount, after = wanted[value]
        assert batch.actions[row].tolist() == [value, value]
        assert batch.returns[row] == pytest.approx(total)
        assert batch.grasp_penalties[row] == pytest.approx(penalty)
        assert batch.discounts[row] == pytest.approx(discount)
        assert batch.next_observations.state[row, 0] == after
        check_image(batch, row, value, after)


def check_image(batch: Batch, row: int, value: int, after: int) -> None:
    """Check that the image is one of the crops of the same frame as the state."""
    for seen, mark in ((batch.observations, value), (batch.next_observations, after)):
        if seen.image is not None:
            image = np.asarray(seen.image[row], np.float64)
            assert image.min() == image.max()
            assert image.min() - mark in (0.0, 0.25, 0.5)


SMALL = st.integers(2, 40)


@settings(max_examples=150, deadline=None)
@given(streams(), SMALL, SMALL, st.sampled_from([1, 3]), st.sampled_from([STATE, FEATURES, PIXELS]))
def test_replay_samples_exactly_the_transitions_of_the_model(
    stream: list[Item], online: int, demonstrations: int, n_step: int, spec: InputSpec
) -> None:
    replay, model = Replay(spec, 2, online, demonstrations), Model((online, demonstrations))
    fill(replay, stream, spec)
    for item in stream:
        model.add(item)
    assert replay.rows == len(model.rows) <= online + demonstrations
    check(replay, replay.online, model.expected(0, n_step), n_step)
    check(replay, replay.demonstrations, model.expected(1, n_step), n_step)


def add_episode(replay: Replay, name: str, length: int, terminated: bool, base: int, human: range = range(0)) -> None:
    """Add `length` online transitions and the last observation; those in `human` are interventions."""
    for index in range(length + 1):
        action = None if index == length else np.zeros(2, np.float32)
        seen = inputs(base + index, STATE)
        row = Row(name, index, seen, action, 0.0, terminated and index >= length - 1)
        replay.add(row, online=True, demonstration=index in human)


def pairs(replay: Replay, view: View, n_step: int = 1) -> set[tuple[int, int, float]]:
    """Return the triples (observation, next observation, discount) of a view."""
    batch = replay.sample(view, np.random.default_rng(0), (300,), n_step, DISCOUNT)
    columns = batch.observations.state[:, 0], batch.next_observations.state[:, 0], batch.discounts
    return {(int(o), int(n), round(float(d), 3)) for o, n, d in zip(*columns, strict=True)}


def test_truncation_bootstraps_from_its_last_observation_and_termination_does_not() -> None:
    replay = Replay(STATE, 2, 100, 100)
    add_episode(replay, "truncated", 3, terminated=False, base=10)
    add_episode(replay, "terminated", 3, terminated=True, base=20)
    found = pairs(replay, replay.online)
    assert {(12, 13, 0.9), (22, 23, 0.0)} <= found
    assert not {13, 23} & {start for start, _, _ in found}
    assert {(11, 13, 0.81), (12, 13, 0.9), (21, 23, 0.0)} <= pairs(replay, replay.online, n_step=3)


def test_intervention_is_stored_once_and_ends_its_n_step_returns() -> None:
    replay = Replay(STATE, 2, 100, 100)
    add_episode(replay, "a", 8, terminated=True, base=0, human=range(2, 5))
    assert replay.rows == 9
    assert (len(replay.online), len(replay.demonstrations)) == (8, 3)
    assert pairs(replay, replay.demonstrations) == {(2, 3, 0.9), (3, 4, 0.9), (4, 5, 0.9)}
    assert pairs(replay, replay.demonstrations, n_step=3) == {(2, 5, 0.729), (3, 5, 0.81), (4, 5, 0.9)}
    assert (4, 7, 0.729) in pairs(replay, replay.online, n_step=3)


def test_mixed_batch_is_half_demonstrations_and_half_online() -> None:
    replay = Replay(STATE, 2, 50, 50)
    add_episode(replay, "d", 5, True, 100, human=range(6))
    for key in range(6):  # only as a demonstration
        row = Row("demo", key, inputs(50 + key, STATE), None if key == 5 else np.zeros(2, np.float32), 0.0, False)
        replay.add(row, online=False, demonstration=True)
    batch = replay.sample_mixed(np.random.default_rng(0), 4, 8, 1, DISCOUNT)
    assert batch.observations.state.shape == (4, 8, 3)
    assert (batch.observations.state[:, 4:, 0] >= 100).all()
    assert (batch.observations.state[:, :4, 0] < 100).any()


def test_batch_has_one_source_while_the_other_is_empty() -> None:
    replay = Replay(FEATURES, 2, 50, 50)
    for key in range(4):
        action = None if key == 3 else np.zeros(2, np.float32)
        replay.add(Row("a", key, inputs(key, FEATURES), action, 0.0, False), online=True, demonstration=False)
    batch = replay.sample_mixed(np.random.default_rng(0), 2, 8, 1, DISCOUNT)
    assert batch.observations.image.shape == (2, 8, 5)
    assert batch.observations.image.dtype == np.float16


def test_unsuitable_rows_are_refused_and_not_stored() -> None:
    replay = Replay(FEATURES, 2, 50, 50)
    wrong = replace_image(inputs(1, FEATURES), np.zeros((2, 5), np.float16))
    with pytest.raises(ValueError, match=r"image of shape \(2, 5\), expected \(3, 5\)"):
        replay.add(Row("a", 0, wrong, np.zeros(2, np.float32), 0.0, False), online=True, demonstration=False)
    assert replay.rows == len(replay.online.members) == 0


def replace_image(seen: Inputs, image: np.ndarray) -> Inputs:
    """Return the inputs with another image."""
    return Inputs(seen.state, image)


def test_same_seed_gives_the_same_batch() -> None:
    replays = [Replay(FEATURES, 2, 9, 9) for _ in range(2)]
    for replay in replays:
        for key in range(20):
            row = Row("a", key, inputs(key, FEATURES), np.zeros(2, np.float32), 0.0, False)
            replay.add(row, online=True, demonstration=key % 3 == 0)
    first, second = (r.sample_mixed(np.random.default_rng(3), 2, 16, 3, DISCOUNT) for r in replays)
    assert np.array_equal(first.observations.image, second.observations.image)
    assert np.array_equal(first.next_observations.state, second.next_observations.state)
