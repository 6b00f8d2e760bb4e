"""Swapping policies while the real-time stack runs; shared by the demo and `benchmarks/swap.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rldg_bringup.pipeline import stack_client, wait_active
from rldg_bringup.stack import StackArguments
from rldg_msgs.msg import PolicyAction
from rldg_msgs.srv import ActivatePolicy
from rldg_ros import qos

TICKS_BETWEEN_SWAPS = 7
"""Not a divisor of the episode length, so that swaps fall on every phase of an episode."""


def swap_under_load(
    arguments: StackArguments,
    policies: Mapping[str, tuple[str, str]],
    swaps: int,
    seed: int,
    log_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """Run episodes in real time, swap between `policies` (id -> back-end, path) `swaps` times, count missed ticks.

    Returns attempts, swaps that the node confirmed, missed ticks in that time, ticks, and latencies [ms].
    """
    names = list(policies)
    done, acted = 0, 0
    with stack_client(arguments, log_dir) as (_, client):
        for name, (backend, path) in policies.items():
            client.load_policy(name, backend, path)
        client.activate_policy(names[0])
        wait_active(client)
        before = client.policy_status
        assert before is not None
        pending: list[Any] = []

        service = client.node.create_client(ActivatePolicy, "policy/activate")
        client.wait(service.service_is_ready, 10.0, "service policy/activate")

        def on_action(_message: PolicyAction) -> None:
            nonlocal done, acted
            acted += 1
            if acted % TICKS_BETWEEN_SWAPS == 0 and done < swaps:
                done += 1
                target = names[done % len(names)]
                pending.append(service.call_async(ActivatePolicy.Request(policy_id=target)))
                if progress:
                    progress(done, swaps)

        subscription = client.node.create_subscription(PolicyAction, "policy_action", on_action, qos.STREAM)
        episodes = 0
        while done < swaps:
            client.run_episodes(1, seed + episodes)
            episodes += 1
        client.wait(lambda: all(f.done() for f in pending), 10.0, "service policy/activate")
        confirmed = sum(bool(f.result().success) for f in pending)
        expected = before.swaps + confirmed
        client.wait(
            lambda: client.policy_status is not None and client.policy_status.swaps >= expected, 10.0, "policy_status"
        )
        after = client.policy_status
        client.node.destroy_subscription(subscription)
    assert after is not None
    return {
        "attempts": done,
        "confirmed": confirmed,
        "missed_ticks": int(after.missed_ticks - before.missed_ticks),
        "ticks": int(after.ticks - before.ticks),
        "latency_p50_ms": round(1000 * after.latency_p50_s, 3),
        "latency_p99_ms": round(1000 * after.latency_p99_s, 3),
        "episodes": episodes,
    }
