"""What a policy server does differently in each pace of `rldg_ros.pace`, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from rldg_policy.serving.pace.lock_step import LockStepServing
from rldg_policy.serving.pace.real_time import RealTimeServing
from rldg_policy.serving.records import Action, Settings
from rldg_policy.serving.scheduler import Timing
from rldg_policy.serving.state import ServerState


class ServingPace(Timing, Protocol):
    """Decides when an observation is answered. One instance per PolicyServer, whose state the methods change."""

    threaded: bool
    """Whether each policy infers on a thread of its own, so that ticks, and HTTP clients, need not wait for it."""

    needs_steps: bool
    """Whether an answer waits for a Step (`on_step`)."""

    @property
    def pending(self) -> bool:
        """Whether `next_action` must be called again later, since a tick waits for an inference."""

    def on_start(self) -> None:
        """Handle the start of an episode."""

    def on_end(self) -> None:
        """Handle the end of the episode."""

    def on_step(self, stamp_ns: int, continues: bool) -> None:
        """Handle the Step of the observation with `stamp_ns`; `continues`: neither terminated nor truncated."""

    def on_swap(self, state: ServerState) -> None:
        """Handle the swap to another policy, whose session has begun."""

    def next_action(self, state: ServerState, now_ns: int, now_s: float) -> Action | None:
        """Return the next answer, or None; see `PolicyServer.next_action`."""


RULES: Mapping[str, Callable[[Settings], ServingPace]] = {
    "real_time": RealTimeServing,
    "lock_step": LockStepServing,
}
