"""60 s of the real-time stack at 10 Hz with a trivial policy: missed ticks, interval error, latency.

Times are DDS source timestamps, i.e. when the observer published the Observation and when the gate
published the target that answers it; goals: 0 missed ticks, 5 ms, 5 / 15 ms.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _report import report
from geometry_msgs.msg import PoseStamped

from rldg_bringup.pipeline import arguments_for, stack_client, wait_active
from rldg_core.from_msg import stamp_ns
from rldg_msgs.msg import Observation
from rldg_ros import qos

PERIOD_S = 0.1


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    observed: dict[int, int] = {}
    answered: dict[int, int] = {}
    arguments = replace(arguments_for("insertion", 0), use_sim_time=False, policy="hold")
    with stack_client(arguments, Path("out/bench/log/realtime")) as (_, client):
        wait_active(client)

        def on_observation(message: Observation, info: Any) -> None:
            observed[stamp_ns(message.header.stamp)] = info["source_timestamp"]

        def on_target(message: PoseStamped, info: Any) -> None:
            answered[stamp_ns(message.header.stamp)] = info["source_timestamp"]

        client.node.create_subscription(Observation, "observation", on_observation, qos.STREAM)
        client.node.create_subscription(PoseStamped, "/target_pose", on_target, qos.TARGET)
        before = client.policy_status
        assert before is not None
        episodes = max(1, round(seconds / 10.0))
        outcome = client.run_episodes(episodes, 0)
        client.spin(1.5)
        after = client.policy_status
        assert after is not None
    matched = sorted(s for s in answered if s in observed)
    latency_ms = np.array([answered[s] - observed[s] for s in matched]) / 1e6
    sent = np.sort([answered[s] for s in matched]) / 1e9
    intervals = np.diff(sent)
    # Between two episodes the gate is silent: those gaps are no ticks.
    errors_ms = np.abs(intervals[intervals < 3 * PERIOD_S] - PERIOD_S) * 1e3
    report(
        "realtime",
        {
            "ticks": int(after.ticks - before.ticks),
            "missed_ticks": int(after.missed_ticks - before.missed_ticks),
            "steps": sum(outcome.steps),
            "episodes": len(outcome.steps),
            "interval_error_p99_ms": round(float(np.percentile(errors_ms, 99)), 3),
            "latency_p50_ms": round(float(np.percentile(latency_ms, 50)), 3),
            "latency_p99_ms": round(float(np.percentile(latency_ms, 99)), 3),
        },
    )


if __name__ == "__main__":
    main()
