"""Real time: policies in their own threads under virtual time; actions of each tick, swaps, slowness, memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from rldg_core.errors import UserError
from rldg_core.policy import PolicySpec
from rldg_policy.serving.inference import Worker
from rldg_policy.serving.latency import Durations, slowness
from rldg_policy.serving.records import Action, Episode, Settings
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import Loaded, load_policy

P_NS = 100_000_000
P_S = 0.1


class Paced:
    """A policy whose inferences end when the test permits: `go` holds one permit each (None: at once)."""

    def __init__(self, horizon: int = 1, rate_hz: float = 10.0, window: int = 1, gated: bool = True, image=0) -> None:
        cameras = ("wrist",) if image else ()
        self.spec = PolicySpec(cameras, image, window, 6, horizon, rate_hz)
        self.go = threading.Semaphore(0) if gated else None
        self.seen: list[tuple[str, int]] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.closed = threading.Event()

    def warm_up(self) -> None: ...

    def reset(self, instruction: str, seed: int) -> None:
        if not instruction:
            raise UserError("instruction: must not be empty")
        self.seen.append(("reset", seed))

    def remember(self, observation) -> None:
        self.seen.append(("remember", observation.stamp_ns // P_NS))

    def act(self, observation):
        self.threads.add(threading.get_ident())
        self.seen.append(("act", observation.stamp_ns // P_NS))
        if self.go:
            assert self.go.acquire(timeout=20)
        if self.error:
            raise self.error
        tick = observation.stamp_ns // P_NS
        return np.tile((tick + np.arange(self.spec.horizon, dtype=np.float32))[:, None] / 100, (1, 6))

    def close(self) -> None:
        self.closed.set()


class Bench:
    """A server under virtual time that controls when its policies finish."""

    def __init__(self, task, observe, **options) -> None:
        self.woken = threading.Semaphore(0)
        self.server = PolicyServer(Settings(task, **options), self.woken.release)
        self._observe = observe
        self.actions: list[Action] = []

    def add(self, name: str, policy: Paced, activate: bool = True) -> Paced:
        self.server.add(Loaded(name, "paced", "", policy), activate)
        return policy

    def start(self, instruction: str = "insert") -> None:
        self.server.start(Episode("e", instruction, 7, 0, 0))

    def answer_at(self, tick: float) -> None:
        """Publish the actions that are due at this time [ticks]."""
        while action := self.server.next_action(int(tick * P_NS), tick * P_S):
            self.actions.append(action)

    def tick(self, number: int) -> None:
        """Deliver an observation; an idle policy has taken it when this returns."""
        worker = self.server.store.served.worker
        was_busy = worker.waiting or worker._inferring is not None
        self.server.observe(self._observe(number * P_NS), number * P_S)
        self.answer_at(number)
        until(lambda: was_busy or not worker.waiting)

    def finish(self, policy: Paced, count: int = 1) -> None:
        """Let inferences end, and wait for their results."""
        for _ in range(count):
            policy.go.release()
            assert self.woken.acquire(timeout=20)

    def last(self) -> tuple[int, float | None]:
        """Return (tick, 100 x first component, or None when held) of the last action."""
        action = self.actions[-1]
        return action.stamp_ns // P_NS, None if action.hold else round(float(action.values[0]) * 100)


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.001)


@pytest.fixture
def bench(task, observe):
    benches: list[Bench] = []

    def make(**options) -> Bench:
        benches.append(Bench(task, observe, **options))
        return benches[-1]

    yield make
    for made in benches:
        for loaded in made.server.store.all():
            if loaded.policy.go:
                for _ in range(100):
                    loaded.policy.go.release()
        made.server.store.close(timeout_s=5)


def test_timely_chunk_answers_its_tick_and_a_late_one_the_remaining_ticks(bench) -> None:
    b = bench()
    policy = b.add("p", Paced(horizon=4))
    b.start()
    b.tick(0)
    assert b.server.pending and not b.actions
    b.finish(policy)
    b.answer_at(0.1)
    assert b.last() == (0, 0) and not b.server.pending
    b.tick(1)
    b.answer_at(1.49)
    assert b.last() == (0, 0), "the chunk may still arrive in time"
    b.answer_at(1.5)
    assert b.last() == (1, 1), "from the previous chunk"
    b.tick(2)
    b.answer_at(2.6)
    assert b.last() == (2, 2)
    b.finish(policy)  # from tick 1; inference for tick 2 begins at once
    until(lambda: ("act", 2) in policy.seen)
    b.tick(3)
    b.answer_at(3.6)
    assert b.last() == (3, 3) and b.server.counts.dry == 0
    b.finish(policy, 2)
    assert policy.seen == [("reset", 7), *(("act", k) for k in range(4))] and len(policy.threads) == 1
    b.answer_at(3.7)
    assert len(b.actions) == 4


def test_policy_that_is_always_late_is_not_waited_for(bench) -> None:
    b = bench()
    policy = b.add("p", Paced(horizon=4, gated=False))
    for _ in range(20):
        b.server.store.served.inferences.add(0.2)
    b.start()
    b.tick(0)
    until(lambda: not b.server._state.scheduler.busy)
    b.answer_at(0.2)
    policy.go = threading.Semaphore(0)
    b.tick(1)
    assert b.last() == (1, 1)
    policy.go.release()


def test_chunk_of_one_is_awaited_for_almost_a_period_then_held_and_finally_missed(bench) -> None:
    b = bench(watchdog_s=0.5)
    policy = b.add("p", Paced())
    b.start()
    b.tick(0)
    b.answer_at(0.95)
    assert b.server.pending
    b.finish(policy)
    b.answer_at(0.97)
    assert b.last() == (0, 0)
    for tick in range(1, 8):
        b.tick(tick)
    b.answer_at(8.3)
    assert [(a.stamp_ns // P_NS, a.hold) for a in b.actions[1:]] == [(k, True) for k in range(1, 7)]
    assert all(not a.values.any() and a.policy_id == "p" for a in b.actions[1:])
    counts = b.server.counts
    assert (counts.ticks, counts.dry, counts.missed) == (8, 6, 1)
    assert b.server.last_error == "policy 'p': no action for 0.6 s"
    b.finish(policy)
    until(lambda: ("act", 7) in policy.seen)
    b.tick(9)
    b.finish(policy)
    until(lambda: ("act", 9) in policy.seen)
    b.finish(policy)
    b.answer_at(9.2)
    assert b.last() == (9, 9), "a policy that recovers acts again"


def test_slow_policy_infers_at_its_rate_and_remembers_every_observation(bench) -> None:
    b = bench()
    policy = b.add("p", Paced(horizon=4, rate_hz=4.0, window=2, gated=False))
    b.start()
    for tick in range(8):
        b.tick(tick)
        until(lambda: not b.server._state.scheduler.busy and len(policy.seen) == tick + 2)  # noqa: B023
        b.answer_at(tick + 0.3)
    kinds = ["act" if k % 3 == 0 else "remember" for k in range(8)]
    assert policy.seen == [("reset", 7), *zip(kinds, range(8), strict=True)]
    assert [round(100 * float(a.values[0])) for a in b.actions] == list(range(8)) and b.server.counts.dry == 0


def test_observations_during_an_inference_are_remembered_in_order(bench) -> None:
    b = bench()
    policy = b.add("p", Paced(horizon=4, window=3))
    b.start()
    b.tick(0)
    until(lambda: ("act", 0) in policy.seen)
    for tick in (1, 2, 3):
        b.tick(tick)
    b.finish(policy, 2)
    assert policy.seen[1:] == [("act", 0), ("remember", 1), ("remember", 2), ("act", 3)]


def test_whole_chunks_are_executed_to_their_end_with_the_next_one_ready(bench) -> None:
    b = bench(chunks="whole")
    policy = b.add("p", Paced(horizon=4, gated=False))
    b.start()
    for _ in range(20):
        b.server.store.served.inferences.add(0.2)
    for tick in range(12):
        b.tick(tick)
        until(lambda: not b.server._state.scheduler.busy)
        b.answer_at(tick + 0.3)
    assert [k for kind, k in policy.seen if kind == "act"] == [0, 2, 4, 6, 8, 10]
    assert [round(100 * float(a.values[0])) for a in b.actions] == list(range(12))


def test_refused_instruction_is_reported_once_without_motion(bench) -> None:
    b = bench()
    policy = b.add("p", Paced(gated=False))
    b.start(instruction="")
    for tick in range(4):
        b.tick(tick)
        until(lambda: not b.server.store.served.worker.busy)
        b.answer_at(tick + 0.3)
    reason = "policy 'p': reset failed: instruction: must not be empty"
    assert not b.actions and b.server.counts.missed == 4 and b.server.last_error == reason
    assert b.server.take_notices() == [reason] and policy.seen == []


def test_failed_inference_is_bridged_by_the_queue_or_missed(bench) -> None:
    b = bench()
    policy = b.add("p", Paced(horizon=2, gated=False))
    b.start()
    for tick, error in enumerate((None, ValueError("nan"), ValueError("nan"), None)):
        policy.error = error
        b.tick(tick)
        until(lambda: not b.server._state.scheduler.busy)
        b.answer_at(tick + 0.3)
    assert [a.stamp_ns // P_NS for a in b.actions] == [0, 1, 3] and b.server.counts.missed == 1
    assert b.server.last_error == "ValueError: nan"


def test_observation_with_another_image_size_is_refused(bench) -> None:
    b = bench()
    b.add("p", Paced(gated=False, image=300))
    b.start()
    b.tick(0)
    until(lambda: not b.server._state.scheduler.busy)
    b.answer_at(0.3)
    assert b.server.last_error == "observation: camera 'wrist' gives 256x256 px, the policy needs 300 px"


def test_swap_during_a_slow_inference_answers_the_current_tick(bench) -> None:
    b = bench()
    slow = b.add("slow", Paced(horizon=8))
    b.start()
    b.tick(0)
    b.finish(slow)
    b.answer_at(0.2)
    b.tick(1)
    until(lambda: ("act", 1) in slow.seen)
    fast = b.add("fast", Paced(horizon=2, gated=False), activate=False)
    b.server.activate("fast")
    until(lambda: ("act", 1) in fast.seen and not b.server._state.scheduler.busy)
    b.answer_at(1.1)
    assert b.last() == (1, 1) and b.actions[-1].policy_id == "fast", "the current tick is the new policy's"
    assert fast.seen == [("reset", 7), ("act", 1)], "the new policy did not wait for the old inference"
    slow.go.release()
    until(lambda: not b.server.store._get("slow").worker.busy and slow.go._value == 0)
    b.tick(2)
    until(lambda: not b.server._state.scheduler.busy)
    b.answer_at(2.1)
    assert [a.policy_id for a in b.actions] == ["slow", "fast", "fast"]
    b.server.store.unload("slow")
    assert slow.closed.wait(20)


def test_hundred_swaps_miss_no_tick_and_leave_no_action_of_the_old_policy(bench, monkeypatch, task) -> None:
    b = bench(watchdog_s=1e3)
    names = ("fast", "slow", "chunked")
    b.add("fast", Paced(gated=False))
    slow, chunked = (b.add(n, Paced(horizon=h, gated=True), activate=False) for n, h in (("slow", 8), ("chunked", 4)))
    for module in ("rldg_core.registry", "rldg_policy.serving.inference"):
        monkeypatch.setattr(f"{module}.factory", lambda name: lambda *_: 1 / 0)
    b.start()
    rng, tick, active = np.random.default_rng(0), 0, "fast"
    for _ in range(100):
        for _ in range(int(rng.integers(1, 4))):
            b.tick(tick)
            if active == "fast":
                until(lambda: not b.server._state.scheduler.busy)
            elif rng.random() < 0.5:
                (slow if active == "slow" else chunked).go.release()
            b.answer_at(tick + 0.6)
            tick += 1
        with pytest.raises(UserError, match="ZeroDivisionError"):
            load_policy("bad", "x", "", False, task)
        b.answer_at(tick)
        answered = len(b.actions)
        active = names[int(rng.integers(3))]
        b.server.activate(active)
        b.tick(tick)
        b.answer_at(tick + 1.3)
        tick += 1
        assert {a.policy_id for a in b.actions[answered:]} == {active}
    b.answer_at(tick + 2)
    counts = b.server.counts
    assert counts.missed == 0 and counts.ticks == tick == len(b.actions)
    assert [a.stamp_ns // P_NS for a in b.actions] == list(range(tick))
    assert b.server.store.swaps == 101


@pytest.mark.parametrize(
    ("horizon", "rate_hz", "hz", "takes_s", "slow"),
    [
        (1, 10.0, 10.0, 0.09, ""),
        (1, 10.0, 10.0, 0.11, "its rate of 10 Hz allows 0.100 s"),
        (1, 4.0, 4.0, 0.24, ""),
        (4, 4.0, 10.0, 0.19, ""),
        (4, 4.0, 10.0, 0.21, "chunks of 4 actions at 10 Hz bridge 0.200 s"),
        (4, 4.0, 10.0, 0.26, "its rate of 4 Hz allows 0.250 s"),
    ],
)
def test_slowness_names_the_limit_that_is_exceeded(horizon, rate_hz, hz, takes_s, slow) -> None:
    inferences = Durations()
    for _ in range(20):
        assert len(inferences) > 9 or slowness(PolicySpec((), 0, 1, 6, horizon, rate_hz), hz, inferences) == ""
        inferences.add(takes_s)
    assert slow in slowness(PolicySpec((), 0, 1, 6, horizon, rate_hz), hz, inferences)
    assert bool(slow) == bool(slowness(PolicySpec((), 0, 1, 6, horizon, rate_hz), hz, inferences))


def test_policy_that_is_too_slow_is_reported_once(bench) -> None:
    b = bench()
    b.add("p", Paced(gated=False, rate_hz=10.0))
    b.start()
    served = b.server.store.served
    for tick in range(15):
        served.inferences.add(0.3)
        b.tick(tick)
        until(lambda: not b.server._state.scheduler.busy)
        b.answer_at(tick + 0.3)
    assert served.slow and [n for n in b.server.take_notices() if "p' is too slow: inference takes 0.3" in n]
    assert b.server.take_notices() == []


def test_unloading_a_policy_frees_its_memory(task, checkpoint) -> None:
    import psutil

    process = psutil.Process()

    def load_and_unload() -> int:
        server = PolicyServer(Settings(task), lambda: None)
        server.add(load_policy("p", "compact", str(checkpoint), False, task), activate=True)
        server.add(load_policy("q", "hold", "", False, task), activate=True)
        worker = server.store._get("p").worker
        server.store.unload("p")
        worker.join(20)
        server.store.close(timeout_s=5)
        return int(process.memory_info().rss)

    rss = [load_and_unload() for _ in range(10)]
    size = sum(f.stat().st_size for f in checkpoint.rglob("*"))
    assert rss[-1] - rss[1] < 2 * size, f"{[round(r / 1e6) for r in rss]} MB, a checkpoint is {size / 1e6:.0f} MB"


def test_worker_without_a_thread_is_closed_when_close_returns(observe) -> None:
    policy = Paced(gated=False)
    worker = Worker("p", policy, threaded=False)
    worker.close()
    assert policy.closed.is_set()
