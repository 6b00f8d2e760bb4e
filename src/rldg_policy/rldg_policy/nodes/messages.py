"""Conversion between the messages of the policy node and the types of the server."""

from __future__ import annotations

import math

from rldg_core import from_msg
from rldg_msgs.msg import EpisodeEvent, PolicyAction, PolicyInfo, PolicyStatus, PolicyWeights
from rldg_policy.serving.latency import TickWindow
from rldg_policy.serving.records import Action, Episode
from rldg_policy.serving.server import PolicyServer
from rldg_policy.serving.store import Loaded
from rldg_policy.serving.weights import Weights
from rldg_ros import to_msg


def episode(message: EpisodeEvent) -> Episode:
    """Convert EpisodeEvent START to Episode."""
    first_stamp_ns = from_msg.stamp_ns(message.first_observation_stamp)
    return Episode(message.episode_id, message.instruction, int(message.seed), first_stamp_ns, int(message.step_count))


def weights(message: PolicyWeights) -> Weights:
    """Convert PolicyWeights to Weights."""
    return Weights(
        spec_hash=message.spec_hash,
        version=int(message.version),
        valid_from_step=int(message.valid_from_step),
        period_steps=int(message.period_steps),
        sha256=message.sha256,
        data=bytes(memoryview(message.data)),
    )


def action(value: Action, latency_s: float) -> PolicyAction:
    """Convert Action to PolicyAction."""
    return PolicyAction(
        header=to_msg.header(value.stamp_ns),
        action=to_msg.floats(value.values),
        policy_id=value.policy_id,
        policy_version=value.version,
        hold=value.hold,
        latency_s=latency_s,
    )


def info(loaded: Loaded, server: PolicyServer) -> PolicyInfo:
    """Return the description of a loaded policy."""
    spec = loaded.spec
    return PolicyInfo(
        policy_id=loaded.policy_id,
        backend=loaded.backend,
        path=loaded.path,
        active=loaded is server.store.active,
        version=spec.version,
        rate_hz=float(spec.rate_hz),
        action_dim=spec.action_dim,
        cameras=list(spec.cameras),
        image_size=spec.image_size,
        window=spec.window,
        statistics_key=spec.statistics_key,
        horizon=spec.horizon,
    )


def status(server: PolicyServer, window: TickWindow, stamp_ns: int) -> PolicyStatus:
    """Return the status of the node."""
    active, counts = server.store.active, server.counts
    served = server.store.served if active else None
    return PolicyStatus(
        header=to_msg.header(stamp_ns),
        active_policy=active.policy_id if active else "",
        version=active.spec.version if active else 0,
        rate_hz=window.rate_hz(),
        latency_p50_s=window.percentile_s(50),
        latency_p99_s=window.percentile_s(99),
        ticks=counts.ticks,
        missed_ticks=counts.missed,
        dry_ticks=counts.dry,
        inference_p50_s=served.inferences.percentile_s(50) if served else math.nan,
        inference_p99_s=served.inferences.percentile_s(99) if served else math.nan,
        too_slow=bool(served and served.slow),
        rejected_observations=counts.rejected,
        swaps=server.store.swaps,
        last_error=server.last_error,
    )
