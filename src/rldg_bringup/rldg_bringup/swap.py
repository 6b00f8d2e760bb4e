"""Swap policies while the stack runs in real time; used by the demo and `benchmarks/swap.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rldg_bringup.arguments import StackArguments
from rldg_bringup.client import StackClient
from rldg_bringup.pipeline import stack_client, wait_active
from rldg_core.from_msg import stamp_ns
from rldg_core.seeding import derive_seed
from rldg_msgs.msg import PolicyAction
from rldg_msgs.srv import ActivatePolicy, LoadPolicy
from rldg_ros import qos

TICKS_BETWEEN_SWAPS = 7
"""No divisor of the episode length, so that swaps occur in every phase of an episode."""

SWAPS_PER_BAD_LOAD = 10
"""Number of swaps per load of a policy that does not exist."""


class _PolicySwapper:
    """Request swaps between random policies and check which policy acts afterwards."""

    def __init__(
        self, client: StackClient, names: list[str], swaps: int, seed: int, progress: Callable[[int, int], None] | None
    ) -> None:
        self._client, self._names, self._swaps, self._progress = client, names, swaps, progress
        self._rng = np.random.default_rng(derive_seed(seed, "swaps"))
        self._active = names[0]
        self._acknowledged_ns: int | None = time.time_ns()
        self._acted = 0
        self.done = self.confirmed = self.strays = self.refused_loads = 0
        self._services: dict[str, Any] = {}
        for kind, name in ((ActivatePolicy, "policy/activate"), (LoadPolicy, "policy/load")):
            self._services[name] = client.open_service(kind, name, kind.Request())
        self._open = 0

    @property
    def idle(self) -> bool:
        """True if every request was answered."""
        return self._open == 0

    def on_action(self, message: PolicyAction) -> None:
        """Count actions of the old policy for observations that are newer than the answer to the swap request."""
        self._acted += 1
        if self._acknowledged_ns is not None and stamp_ns(message.header.stamp) > self._acknowledged_ns:
            self.strays += message.policy_id != self._active
        if self._acted % TICKS_BETWEEN_SWAPS == 0 and self.done < self._swaps:
            self._swap()

    def _swap(self) -> None:
        self.done += 1
        target = str(self._rng.choice([name for name in self._names if name != self._active]))
        self._active, self._acknowledged_ns = target, None
        self._call("policy/activate", ActivatePolicy.Request(policy_id=target), self._on_swapped)
        if self.done % SWAPS_PER_BAD_LOAD == 0:
            bad = LoadPolicy.Request(policy_id="bad", backend="compact", path="/nowhere", activate=True)
            self._call("policy/load", bad, self._on_bad_load)
        if self._progress:
            self._progress(self.done, self._swaps)

    def _call(self, name: str, request: Any, answered: Callable[[Any], None]) -> None:
        self._open += 1
        self._services[name].call_async(request).add_done_callback(answered)

    def _on_swapped(self, future: Any) -> None:
        self._open -= 1
        self.confirmed += bool(future.result().success)
        self._acknowledged_ns = time.time_ns()

    def _on_bad_load(self, future: Any) -> None:
        self._open -= 1
        self.refused_loads += not future.result().success


def swap_under_load(
    arguments: StackArguments,
    policies: Mapping[str, tuple[str, str]],
    swaps: int,
    seed: int,
    log_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """Run episodes in real time while swapping among `policies` (id -> back-end, path); count missed ticks.

    Returns: attempts; confirmed: swaps that the policy node confirmed; strays: actions of an old policy after a
    confirmed swap; refused_loads: loads of a policy that does not exist; ticks; missed_ticks; dry_ticks: ticks without
    an action, on which the policy held; acted_ratio: share of the other ticks; latency_p50_ms, latency_p99_ms;
    episodes.
    """
    names = list(policies)
    backends = dict.fromkeys(["compact", *(backend for backend, _ in policies.values())])
    with stack_client(replace(arguments, preload=",".join(backends)), log_dir) as (_, client):
        for name, (backend, path) in policies.items():
            client.load_policy(name, backend, path)
        client.activate_policy(names[0])
        wait_active(client)
        before = client.policy_status
        assert before is not None
        swapper = _PolicySwapper(client, names, swaps, seed, progress)
        subscription = client.node.create_subscription(PolicyAction, "policy_action", swapper.on_action, qos.STREAM)
        episodes = 0
        while swapper.done < swaps:
            client.run_episodes(1, seed + episodes)
            episodes += 1
        client.wait(lambda: swapper.idle, 10.0, "service policy/activate")
        expected = before.swaps + swapper.confirmed
        client.wait(
            lambda: client.policy_status is not None and client.policy_status.swaps >= expected, 10.0, "policy_status"
        )
        client.spin(1.2)  # receive the status that counts the last tick
        after = client.policy_status
        client.node.destroy_subscription(subscription)
    assert after is not None
    ticks = int(after.ticks - before.ticks)
    missed, dry = int(after.missed_ticks - before.missed_ticks), int(after.dry_ticks - before.dry_ticks)
    return {
        "attempts": swapper.done,
        "confirmed": swapper.confirmed,
        "strays": swapper.strays,
        "refused_loads": swapper.refused_loads,
        "missed_ticks": missed,
        "dry_ticks": dry,
        "ticks": ticks,
        "acted_ratio": round((ticks - missed - dry) / max(1, ticks), 4),
        "latency_p50_ms": round(1000 * after.latency_p50_s, 3),
        "latency_p99_ms": round(1000 * after.latency_p99_s, 3),
        "episodes": episodes,
    }
