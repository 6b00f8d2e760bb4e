"""Samples: windows, chunks, shuffling, ranks and resuming."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from generalist_samples import make_episode, open_insertion_dataset, write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_data.rlds import Dataset, Episode, read_dataset
from rldg_policy.training.samples import Sample, batches, episode_samples, stream_samples

LENGTHS = (5, 1, 9, 3, 7, 2)
TOTAL = sum(LENGTHS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    episodes = [make_episode(seed, length) for seed, length in enumerate(LENGTHS)]
    return read_dataset(write_dataset(tmp_path_factory.mktemp("data"), episodes, shards=3))


def place(sample: Sample) -> tuple[int, int]:
    return sample.episode, sample.index


def naive(episode: Episode, index: int, window: int, horizon: int) -> tuple[list, list, list, list]:
    """Return images, image mask, actions and action mask by the rules in the docstring of Sample, one by one."""
    count = len(episode) - 1
    images, seen, actions, done = [], [], [], []
    for back in reversed(range(window)):
        step = index - back
        images.append(episode.images["image"][step if step > 0 else 0])
        seen.append(step >= 0)
        for ahead in range(horizon):
            at = step + ahead
            actions.append(episode.action[0 if at < 0 else count - 1 if at >= count else at])
            done.append(step >= 0 and at < count)
    return images, seen, actions, done


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 6))
def test_windows_and_chunks_equal_those_of_the_simple_rule(transitions, window, horizon):
    episode = make_episode(transitions, transitions)
    samples = list(episode_samples(episode, 3, window, horizon))
    assert [place(s) for s in samples] == [(3, i) for i in range(transitions)]
    for sample in samples:
        images, seen, actions, done = naive(episode, sample.index, window, horizon)
        assert list(sample.images) == images and sample.image_mask.tolist() == seen
        assert sample.actions.shape == (window, horizon, 7) and sample.actions.dtype == np.float32
        np.testing.assert_array_equal(sample.actions.reshape(-1, 7), np.array(actions))
        assert sample.action_mask.ravel().tolist() == done
        assert sample.instruction == episode.instruction


@settings(max_examples=30, deadline=None)
@given(buffer=st.integers(1, 40), seed=st.integers(0, 2**63 - 1))
def test_epochs_contain_every_sample_once_in_different_order(dataset, buffer, seed):
    places = [place(s) for s in stream_samples(dataset, buffer=buffer, seed=seed, epochs=2)]
    everything = {(e, i) for e, length in enumerate(LENGTHS) for i in range(length)}
    first, second = places[:TOTAL], places[TOTAL:]
    assert set(first) == set(second) == everything and len(first) == len(second) == TOTAL
    if buffer > 5:
        assert first != second
    assert places == [place(s) for s in stream_samples(dataset, buffer=buffer, seed=seed, epochs=2)]


@settings(max_examples=40, deadline=None)
@given(
    buffer=st.integers(1, 40),
    skip=st.integers(0, 3 * TOTAL),
    world=st.integers(1, 4),
    data=st.data(),
)
def test_resumed_rank_continues_with_the_samples_it_had_left(dataset, buffer, skip, world, data):
    rank = data.draw(st.integers(0, world - 1))
    options = {"buffer": buffer, "seed": 5}
    whole = [place(s) for s in islice(stream_samples(dataset, **options), 5 * TOTAL * world)]
    mine = stream_samples(dataset, **options, rank=rank, world=world, skip=skip)
    assert [place(s) for s in islice(mine, TOTAL)] == whole[rank::world][skip : skip + TOTAL]


def test_seeds_differ_and_a_large_buffer_shuffles_evenly(dataset):
    def order(seed: int) -> list[tuple[int, int]]:
        return [place(s) for s in stream_samples(dataset, seed=seed, epochs=1)]

    assert order(0) != order(1)
    firsts = Counter(order(seed)[0][0] for seed in range(200))
    assert firsts[2] > firsts[1]  # nine steps against one


def test_stream_ends_after_its_epochs_also_when_resumed_at_the_end(dataset):
    assert len(list(stream_samples(dataset, epochs=2, skip=TOTAL + 4))) == TOTAL - 4
    assert list(stream_samples(dataset, epochs=1, skip=TOTAL)) == []
    assert [len(b) for b in batches(stream_samples(dataset, epochs=1), 8)] == [8, 8, 8, 3]


def test_buffer_limits_the_samples_held(dataset):
    """A buffer of one returns the stored order: at most one sample waits."""
    places = [place(s) for s in stream_samples(dataset, buffer=1, epochs=1)]
    assert places == [(e, i) for e, length in enumerate(LENGTHS) for i in range(length)]
    early = [place(s)[0] for s in islice(stream_samples(dataset, buffer=4, epochs=1), 2)]
    assert max(early) <= 1


def test_images_stay_encoded_and_are_shared(dataset):
    (first, second) = [s for s in stream_samples(dataset, window=2, epochs=1) if place(s) in {(2, 3), (2, 4)}]
    by_index = sorted((first, second), key=lambda s: s.index)
    assert by_index[0].images[1] == by_index[1].images[0] and by_index[0].images[1][:2] == b"\xff\xd8"


def test_dataset_without_samples_is_refused(tmp_path: Path):
    empty = read_dataset(write_dataset(tmp_path, [make_episode(0, 0), make_episode(1, 0)]))
    with pytest.raises(UserError, match="split 'train' has no step with an action"):
        next(stream_samples(empty))
    with pytest.raises(UserError, match="no split 'val'"):
        next(stream_samples(open_insertion_dataset(tmp_path / "b"), split="val"))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        stream_samples(empty, rank=2, world=2)
