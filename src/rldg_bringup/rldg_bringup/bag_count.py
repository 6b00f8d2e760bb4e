"""One bag for every episode that was run: what a command has to see before it says that it has recorded them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray

from rldg_bringup.client import Episodes, StackClient
from rldg_bringup.runner import StackProcess, last_line
from rldg_core.errors import UserError, one_line
from rldg_data.bags.reading import episode_info, find_bags

BAG_TIMEOUT_S = 20.0
"""From the end of an episode until its bag is closed: the last chunk is compressed, everything synced to the disk."""
DIAGNOSTICS_TIMEOUT_S = 5.0
"""The recorder reports every second."""
DISCOVERY_S = 3.0
"""From the start of this process until the nodes of a running stack are in its graph."""
POLL_S = 0.02


@dataclass(frozen=True)
class RecorderState:
    """Of `rldg_data.bags.recording.Counters`. lost: episodes that were dropped or failed."""

    lost: int = 0
    last_error: str = ""
    newest_episode: str = ""


class RecorderWatch:
    """What the recorder in the client's namespace says of itself. first, state: None until it was heard."""

    def __init__(self, client: StackClient) -> None:
        self.first: RecorderState | None = None
        self.state: RecorderState | None = None
        self._name = f"{client.node.get_namespace().rstrip('/')}/recorder"
        client.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == self._name:
                values = {value.key: value.value for value in status.values}
                try:
                    lost = int(values["failed"]) + int(values["dropped"])
                    self.state = RecorderState(lost, values["last_error"], values["newest_episode"])
                except (KeyError, ValueError) as error:
                    raise UserError(f"recorder: no {error} in its report on /diagnostics: another version?") from error
                self.first = self.first or self.state


class BagCount:
    """The bags that appear in `bag_dir` from now on. client, process: the stack whose recorder writes there."""

    def __init__(self, bag_dir: Path, client: StackClient, process: StackProcess) -> None:
        self._bag_dir, self._client, self._process = bag_dir, client, process
        self._watch = RecorderWatch(client)
        self._seen = set(self._bags())
        self._episode_ids: set[str] = set()

    def _bags(self) -> list[Path]:
        return find_bags(self._bag_dir) if self._bag_dir.is_dir() else []

    def missing(self, episode_ids: Sequence[str]) -> list[str]:
        """The episodes that have no bag yet, in order. Raises UserError when a new bag cannot be read."""
        new = [bag for bag in self._bags() if bag not in self._seen]
        self._episode_ids.update(episode_info(bag).episode_id for bag in new)
        self._seen.update(new)
        return [episode for episode in episode_ids if episode not in self._episode_ids]

    def wait(self, outcome: Episodes, timeout_s: float = BAG_TIMEOUT_S) -> None:
        """Wait until every episode of `outcome` has its bag.

        Raises UserError when the recorder has lost an episode (a full disk), when a node of the stack has died, or when
        bags are missing after `timeout_s` (the recorder hangs).
        """
        deadline = time.monotonic() + timeout_s
        while missing := self.missing(outcome.episode_ids):
            self._process.check()
            state = self._watch.state
            if time.monotonic() > deadline or (state and state.lost):
                log = self._process.log_dir / "recorder.log"
                reason = state.last_error if state and state.last_error else last_line(log)
                raise UserError(
                    f"{self._bag_dir}: {len(missing)} of {len(outcome.episode_ids)} episodes have no bag, first "
                    f"{missing[0]!r}: recorder: {reason} (log: {log})"
                )
            self._client.spin(POLL_S)


class RunningRecorder:
    """The recorder of a stack that somebody else has started, if it has one."""

    def __init__(self, client: StackClient) -> None:
        self._client, self._watch = client, RecorderWatch(client)
        self._discovered_by_s = time.monotonic() + DISCOVERY_S

    def _is_there(self) -> bool:
        node = self._client.node
        return self._watch.state is not None or (
            ("recorder", node.get_namespace()) in node.get_node_names_and_namespaces()
        )

    def wait(self, outcome: Episodes) -> None:
        """Wait until it has closed the bag of the newest episode; returns at once where there is no recorder.

        Raises UserError when it has lost an episode since it was first heard, or closes no bag.
        """
        # A short episode in lock-step may be over before everything is discovered.
        while not self._is_there() and time.monotonic() < self._discovered_by_s:
            self._client.spin(POLL_S)
        if not outcome.episode_ids or not self._is_there():
            return
        newest = outcome.episode_ids[-1]
        deadline = time.monotonic() + DIAGNOSTICS_TIMEOUT_S
        while True:
            first, state = self._watch.first or RecorderState(), self._watch.state or RecorderState()
            late = time.monotonic() > deadline
            if state.lost > first.lost or (late and state.newest_episode != one_line(newest)):
                reason = state.last_error or "no report of it on /diagnostics"
                raise UserError(f"recorder: no bag of every episode, the newest is {newest!r}: {reason}")
            if state.newest_episode == one_line(newest):
                return
            self._client.spin(POLL_S)
