"""The server as a state machine: which observation is answered with which weights, in any order of arrival."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.policy import PolicySpec
from rldg_policy.serving.records import Episode, Settings
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import Loaded, load_policy
from rldg_policy.serving.weights import Weights, WeightsQueue, valid_from_due

PERIOD_NS = 100_000_000


class Fake:
    """A policy whose action is its weights version; `chunk` replaces its answer."""

    spec_hash = "spec"

    def __init__(self, horizon: int = 1, rate_hz: float = 10.0) -> None:
        self.version, self.closed, self.resets, self.calls = 0, False, [], 0
        self.horizon, self.rate_hz, self.chunk = horizon, rate_hz, None

    @property
    def spec(self) -> PolicySpec:
        return PolicySpec((), 0, 1, 6, self.horizon, self.rate_hz, version=self.version)

    def warm_up(self) -> None: ...

    def reset(self, instruction: str, seed: int) -> None:
        self.resets.append((instruction, seed))

    def act(self, observation):
        self.calls += 1
        if self.chunk is not None:
            return self.chunk
        return np.tile(np.arange(self.horizon, dtype=np.float32)[:, None] / 10, (1, 6))

    def update_weights(self, data: bytes, version: int) -> None:
        self.version = version

    def close(self) -> None:
        self.closed = True


def weights(version: int, valid_from: int, period: int = 3, **changes) -> Weights:
    fields = {"spec_hash": "spec", "sha256": sha256_hex(b"w"), "data": b"w", **changes}
    return Weights(version=version, valid_from_step=valid_from, period_steps=period, **fields)


def server_with(task, policy: Fake, **options) -> PolicyServer:
    server = PolicyServer(Settings(task, **options))
    server.add(Loaded("fake", "fake", "", policy), activate=True)
    return server


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), period=st.integers(1, 4))
def test_lock_step_answers_every_observation_once_with_the_due_weights(data, lengths, period, observe_static):
    """Random delays between the topics: events, observations and weights keep only their own order.

    A topic may repeat its last messages, as a transient-local one does when its subscriber is discovered again.
    """
    task, observe = observe_static
    server = server_with(task, Fake(), pace="lock_step", live_weights=True)
    events, observations, learner, steps = deque(), deque(), deque([(0, 0)]), deque()
    episode, stamp, index, step_count, published = -1, 0, 0, 0, 0
    answered: list[tuple[int, int]] = []
    expected: list[tuple[int, int]] = []

    deliver = (
        lambda event: server.start(event[1]) if event[0] == "start" else server.end(event[1]),
        lambda stamp: server.observe(observe(stamp), 0.0),
        lambda step: server.step(*step),
    )
    sent: tuple[deque, ...] = tuple(deque(maxlen=10) for _ in deliver)

    def reset() -> None:
        nonlocal episode, stamp, index
        episode, index, stamp = episode + 1, 0, stamp + PERIOD_NS
        observations.append(stamp)
        events.append(("start", Episode(f"e{episode}", "insert", episode, stamp, step_count)))

    reset()
    while episode < len(lengths):
        queues = [q for q in (events, observations, learner, steps) if q]
        assert queues, "nothing is pending: the lock-step loop stands still"
        queue = queues[data.draw(st.integers(0, len(queues) - 1))]
        item = queue.popleft()
        if queue is learner:
            server.receive_weights(weights(item[0], item[1], period))
        else:
            topic = [id(q) for q in (events, observations, steps)].index(id(queue))
            sent[topic].append(item)
            for message in sent[topic] if data.draw(st.booleans()) else [item]:
                deliver[topic](message)
        while action := server.next_action(0):
            assert action.stamp_ns == stamp and index < lengths[episode]
            answered.append((stamp, action.version))
            expected.append((stamp, max(0, step_count // period - 1)))
            steps.append((stamp, index + 1 < lengths[episode]))
            index, step_count, stamp = index + 1, step_count + 1, stamp + PERIOD_NS
            observations.append(stamp)
            if step_count % period == 0:
                published += 1
                learner.append((published, (published + 1) * period))
            if index == lengths[episode]:
                events.append(("end", f"e{episode}"))
                if episode + 1 < len(lengths):
                    reset()
                else:
                    episode += 1
                    break
    assert answered == expected
    assert len({s for s, _ in answered}) == sum(lengths)
    assert server.counts.missed == 0


@pytest.fixture(scope="module")
def observe_static():
    """Return a task and a small observation, made once for all examples."""
    from rldg_core.task import load_task
    from rldg_core.types import Observation

    task = load_task(Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks" / "insertion.yaml")
    pose, zeros = np.array(task.reset.pose_base_tcp), np.zeros(6)
    return task, lambda stamp: Observation(stamp, {}, pose, zeros, zeros, zeros, 0.0)


@given(step=st.integers(0, 10_000), period=st.integers(1, 500))
def test_due_version_lags_by_one_period(step, period):
    due = valid_from_due(step, period)
    assert due % period == 0 and due <= step
    assert due == (0 if step < 2 * period else step - step % period)


def started(server: PolicyServer, first_stamp_ns: int = 0) -> PolicyServer:
    server.start(Episode("e", "insert", 1, first_stamp_ns, 0))
    return server


def test_observations_between_episodes_are_not_answered(task, observe):
    server = server_with(task, Fake())
    server.observe(observe(0), 0.0)
    assert server.next_action(0) is None
    started(server, PERIOD_NS)
    assert server.next_action(0) is None
    server.observe(observe(PERIOD_NS), 0.0)
    assert server.next_action(PERIOD_NS).stamp_ns == PERIOD_NS
    server.end("another")
    server.observe(observe(2 * PERIOD_NS), 0.0)
    assert server.next_action(2 * PERIOD_NS) is not None
    server.end("e")
    server.observe(observe(3 * PERIOD_NS), 0.0)
    assert server.next_action(3 * PERIOD_NS) is None
    assert (server.counts.ticks, server.counts.missed) == (2, 0)


def test_real_time_counts_late_missed_and_invalid_ticks(task, observe):
    policy = Fake()
    server = started(server_with(task, policy))
    server.observe(observe(0), 0.0)
    assert server.next_action(2 * PERIOD_NS + 1) is None
    assert (server.counts.ticks, server.counts.missed, server.counts.rejected) == (1, 1, 1)
    server.observe(observe(4 * PERIOD_NS), 0.0)
    assert server.next_action(4 * PERIOD_NS) is not None
    assert (server.counts.ticks, server.counts.missed) == (5, 4)
    assert "no observation for 3 ticks" in server.last_error
    for stamp, chunk in enumerate((np.full((1, 6), np.nan), np.zeros((1, 7)), np.zeros((2, 6))), start=5):
        policy.chunk = chunk
        server.observe(observe(stamp * PERIOD_NS), 0.0)
        assert server.next_action(stamp * PERIOD_NS) is None
    assert server.counts.missed == 7
    server.reject("observation: names 2 cameras")
    assert (server.counts.ticks, server.counts.missed, server.counts.rejected) == (9, 8, 2)


@pytest.mark.parametrize(("now_ns", "reason"), [(0, "age unknown"), (PERIOD_NS, "-0.900 s old")])
def test_observation_from_the_future_is_not_answered(task, observe, now_ns, reason):
    """With use_sim_time and no /clock the time is 0, and no observation would ever be stale."""
    server = started(server_with(task, Fake()))
    server.observe(observe(10 * PERIOD_NS), 0.0)
    assert server.next_action(now_ns) is None
    assert (server.counts.missed, server.counts.rejected) == (1, 1)
    assert reason in server.last_error


def test_observation_is_answered_once(task, observe):
    server = started(server_with(task, Fake()))
    for stamp in (0, 0, PERIOD_NS, 0):
        server.observe(observe(stamp), 0.0)
    first, second = server.next_action(PERIOD_NS), server.next_action(PERIOD_NS)
    assert (first.stamp_ns, second.stamp_ns) == (0, PERIOD_NS)
    assert server.next_action(0) is None


@pytest.mark.parametrize(("rate_hz", "chunks", "calls"), [(10.0, "newest", 8), (5.0, "newest", 4), (10.0, "whole", 2)])
def test_chunks_run_open_loop_when_configured_or_when_the_policy_is_slow(task, observe, rate_hz, chunks, calls):
    policy = Fake(horizon=4, rate_hz=rate_hz)
    server = started(server_with(task, policy, chunks=chunks))
    values = []
    for tick in range(8):
        server.observe(observe(tick * PERIOD_NS), 0.0)
        values.append(round(float(server.next_action(tick * PERIOD_NS).values[0]) * 10))
    assert policy.calls == calls
    assert values == [i % (8 // calls) for i in range(8)]


def test_swap_during_an_episode_resets_the_new_policy_and_drops_the_old_chunk(task, observe):
    old, new = Fake(horizon=4), Fake()
    server = started(server_with(task, old, chunks="whole"))
    server.observe(observe(0), 0.0)
    server.next_action(0)
    server.add(Loaded("new", "fake", "", new), activate=False)
    server.activate("new")
    server.observe(observe(PERIOD_NS), 0.0)
    assert server.next_action(PERIOD_NS).policy_id == "new"
    assert new.resets == [("insert", 1)] and server.store.swaps == 2
    with pytest.raises(UserError, match="unknown policy 'x', loaded: fake, new"):
        server.activate("x")
    assert server.store.active.policy_id == "new" and "unknown policy" in server.last_error
    with pytest.raises(UserError, match="is active"):
        server.store.unload("new")
    server.store.unload("fake")
    assert old.closed and [p.policy_id for p in server.store.all()] == ["new"]


def test_swap_in_lock_step_recomputes_the_pending_action(task, observe):
    server = started(server_with(task, Fake(), pace="lock_step"))
    server.observe(observe(0), 0.0)
    assert server.next_action(0).policy_id == "fake"
    server.observe(observe(PERIOD_NS), 0.0)
    assert server.next_action(0) is None, "Step 0 has not arrived"
    server.add(Loaded("new", "fake", "", Fake()), activate=True)
    server.step(0, True)
    action = server.next_action(0)
    assert (action.policy_id, action.stamp_ns) == ("new", PERIOD_NS)
    assert (server.counts.ticks, server.counts.missed, server.counts.dry) == (2, 0, 0)


def test_reloading_the_active_name_swaps_and_closes_the_old_policy(task):
    old, new = Fake(), Fake()
    server = server_with(task, old)
    server.add(Loaded("fake", "fake", "", new), activate=False)
    assert server.store.active.policy is new and old.closed


def test_invalid_weights_are_refused_and_the_old_ones_kept(task, observe):
    policy = Fake()
    server = started(server_with(task, policy, live_weights=True))
    server.receive_weights(weights(1, 6))
    for bad, reason in ((weights(2, 9, sha256="0"), "sha256"), (weights(2, 9, spec_hash="other"), "specification")):
        with pytest.raises(UserError, match=reason):
            server.receive_weights(bad)
        assert reason in server.last_error
    server.observe(observe(0), 0.0)
    assert server.next_action(0).version == 1


def test_lock_step_waits_for_weights_and_for_a_policy(task, observe):
    server = started(PolicyServer(Settings(task, pace="lock_step", live_weights=True)))
    server.observe(observe(0), 0.0)
    assert server.next_action(0) is None
    server.add(Loaded("fake", "fake", "", Fake()), activate=True)
    assert server.next_action(0) is None
    server.receive_weights(weights(0, 0))
    assert server.next_action(10**12).stamp_ns == 0
    assert server.counts.missed == 0


def test_real_time_uses_the_newest_weights():
    queue = WeightsQueue()
    assert queue.newest() is None and queue.due(0) is None
    for version in (3, 1, 2):
        queue.put(weights(version, version * 3))
    assert queue.newest().version == 3


def use_factory(monkeypatch, factory) -> None:
    """Make every back-end use this factory."""
    for module in ("rldg_core.registry", "rldg_policy.serving.inference"):
        monkeypatch.setattr(f"{module}.factory", lambda name: factory)


def test_failing_back_end_is_a_user_error(task, monkeypatch):
    def broken(path, task, explore):
        raise RuntimeError("cuda\nis missing")

    use_factory(monkeypatch, broken)
    with pytest.raises(UserError, match=r"back-end x failed to load: RuntimeError: cuda$"):
        load_policy("p", "x", "", False, task)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cameras": ("front",)}, "needs camera 'front'"),
        ({"cameras": ("wrist",), "image_size": 512}, "needs images of 512 px"),
        ({"action_dim": 7}, "7 components"),
        ({"rate_hz": 4.0}, "needs chunks of 3"),
        ({"horizon": 0}, "must be positive"),
    ],
)
def test_invalid_specification_is_refused(task, monkeypatch, changes, reason):
    base = {"cameras": (), "image_size": 0, "window": 1, "action_dim": 6, "horizon": 1, "rate_hz": 10.0}
    policy = type("P", (Fake,), {"spec": PolicySpec(**{**base, **changes})})
    use_factory(monkeypatch, lambda path, task, explore: policy())
    with pytest.raises(UserError, match=reason):
        load_policy("p", "x", "", False, task)
