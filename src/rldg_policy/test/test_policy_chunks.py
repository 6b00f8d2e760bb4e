"""The queue of chunks: the action of each tick under every rule."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_policy.serving.chunks import RULES, ActionQueue, Chunk

P = 100_000_000
DIM = 6

arrivals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=25)
"""(tick whose observation a chunk came from, how many ticks later it arrived)."""


def chunk(tick: int, horizon: int, jitter_ns: int = 0) -> Chunk:
    """Return a chunk whose actions hold its number and their index in it."""
    values = np.zeros((horizon, DIM), dtype=np.float32)
    values[:, 0], values[:, 1] = tick, np.arange(horizon)
    return Chunk(tick * P + jitter_ns, values, version=tick)


def played(rule: str, horizon: int, arriving: list[tuple[int, int]], k: float = 0.0):
    """Return, for ticks 0..40, the executed action, None or (chunk, index), and the chunks received by then."""
    queue, here = ActionQueue(rule, P, k), []
    for tick in range(41):
        for made, late in sorted(arriving):
            if made + late == tick:
                queue.put(chunk(made, horizon))
                here.append(made)
        covered = queue.covers(tick * P)
        got = queue.action_at(tick * P)
        assert covered == (got is not None)
        yield tick, None if got is None else got.values, list(here)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), arrivals)
def test_newest_uses_the_newest_chunk_at_its_index(horizon: int, arriving: list[tuple[int, int]]) -> None:
    for tick, got, here in played("newest", horizon, arriving):
        expected = max(here, default=-99)
        if 0 <= tick - expected < horizon:
            assert got is not None and tuple(got[0, :2]) == (expected, tick - expected)
        else:
            assert got is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), arrivals)
def test_whole_executes_a_chunk_to_its_end(horizon: int, arriving: list[tuple[int, int]]) -> None:
    current = None
    for tick, got, _ in played("whole", horizon, arriving):
        if current is not None and tick - current < horizon:
            assert got is not None and got[0, 0] == current, "nothing replaces a running chunk"
        current = None if got is None else int(got[0, 0])
        assert got is None or got[0, 1] == tick - got[0, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), arrivals, st.sampled_from([0.0, 0.3, -0.5, 200.0]))
def test_ensemble_is_the_weighted_mean_of_all_chunks_for_the_tick(horizon: int, arriving, k: float) -> None:
    newest = -1
    accepted: list[int] = []
    for tick, got, here in played("ensemble", horizon, arriving, k):
        for made in here[len(accepted) :]:
            accepted.append(made if made > newest else -99)
            newest = max(newest, made)
        ages = np.array([tick - made for made in accepted if 0 <= tick - made < horizon])
        if not len(ages):
            assert got is None
            continue
        weights = np.exp(k * (ages - ages.max()))
        expected = [np.sum(weights * (tick - ages)) / weights.sum(), np.sum(weights * ages) / weights.sum()]
        np.testing.assert_allclose(got[0, :2], expected, atol=1e-4)


def test_ensemble_with_a_chunk_every_tick_equals_the_wrapper_of_octo() -> None:
    """Source: exp(-k i), i = 0 the oldest of the last H predictions (octo/utils/gym_wrappers.py)."""
    rng, horizon, k = np.random.default_rng(0), 4, 0.7
    queue, history = ActionQueue("ensemble", P, k), []
    for tick in range(10):
        values = rng.normal(size=(horizon, DIM)).astype(np.float32)
        history = [*history, values][-horizon:]
        queue.put(Chunk(tick * P, values))
        weights = np.exp(-k * np.arange(len(history)))
        predictions = [v[len(history) - 1 - i] for i, v in enumerate(history)]
        expected = np.sum((weights / weights.sum())[:, None] * np.stack(predictions), axis=0)
        np.testing.assert_allclose(queue.action_at(tick * P).values[0], expected, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(RULES), st.lists(st.integers(-45, 45), min_size=8, max_size=8), st.integers(-4, 4))
def test_jitter_of_stamps_does_not_move_a_tick(rule: str, jitter_ms: list[int], made_ms: int) -> None:
    queue = ActionQueue(rule, P)
    queue.put(chunk(1, 8, made_ms * 1_000_000))
    for place, ms in enumerate(jitter_ms):
        assert queue.action_at((1 + place) * P + ms * 1_000_000).values[0, 1] == place


def test_cleared_queue_is_empty_and_ignores_old_chunks() -> None:
    for rule in RULES:
        queue = ActionQueue(rule, P)
        queue.put(chunk(3, 4))
        queue.put(chunk(2, 4))
        assert queue.newest_ns == 3 * P and queue.action_at(3 * P).values[0, 0] == 3
        queue.clear()
        assert queue.action_at(3 * P) is None and queue.newest_ns == -1
