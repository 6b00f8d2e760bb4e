"""Check that every episode has its bag, before a command reports that it has recorded them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rldg_bringup.client import StackClient
from rldg_bringup.outcome import Episodes
from rldg_bringup.runner import StackProcess, last_line
from rldg_core.errors import UserError, one_line
from rldg_data.bags.reading import episode_info, find_bags
from rldg_msgs.msg import RecorderStatus

BAG_TIMEOUT_S = 20.0
"""Limit for closing a bag after the end of its episode: the last chunk is compressed and all files are synced."""
STATUS_TIMEOUT_S = 5.0
"""Limit for a report of the recorder, which reports each bag when it is closed."""
DISCOVERY_S = 3.0
"""Limit for the nodes of a running stack to appear in the graph of this process."""
POLL_S = 0.02


class RecorderWatch:
    """First and newest status of the recorder in the namespace of the client; None before the first one."""

    def __init__(self, client: StackClient) -> None:
        self.first: RecorderStatus | None = None
        self.newest: RecorderStatus | None = None
        client.listen_to_status(RecorderStatus, "recorder_status", self._on_status)

    def _on_status(self, message: RecorderStatus) -> None:
        self.first = self.first or message
        self.newest = message

    @property
    def lost(self) -> int:
        """Number of episodes that the recorder has lost since its first status."""
        return _lost(self.newest) - _lost(self.first)

    @property
    def newest_episode(self) -> str:
        """Id of the episode in the newest closed bag; "" before the first one."""
        return self.newest.newest_episode if self.newest else ""

    @property
    def last_error(self) -> str:
        """Reason for the newest lost episode; "" without one."""
        return self.newest.last_error if self.newest else ""


def _lost(status: RecorderStatus | None) -> int:
    return status.failed + status.dropped if status else 0


class BagCount:
    """Count the bags that appear in `bag_dir` from now on.

    client, process: the stack whose recorder writes there; timeout_s: limit for closing a bag after its episode.
    """

    def __init__(
        self, bag_dir: Path, client: StackClient, process: StackProcess, timeout_s: float = BAG_TIMEOUT_S
    ) -> None:
        self._bag_dir, self._client, self._process, self._timeout_s = bag_dir, client, process, timeout_s
        self._watch = RecorderWatch(client)
        self._seen = set(self._bags())
        self._episode_ids: set[str] = set()

    def _bags(self) -> list[Path]:
        return find_bags(self._bag_dir) if self._bag_dir.is_dir() else []

    def missing(self, episode_ids: Sequence[str]) -> list[str]:
        """Return the episodes that have no bag yet, in order. Raises UserError when a new bag cannot be read."""
        new = [bag for bag in self._bags() if bag not in self._seen]
        self._episode_ids.update(episode_info(bag).episode_id for bag in new)
        self._seen.update(new)
        return [episode for episode in episode_ids if episode not in self._episode_ids]

    def wait(self, outcome: Episodes) -> None:
        """Wait until every episode of `outcome` has its bag.

        Raises UserError when the recorder has lost an episode (a full disk), when a node of the stack has died, or when
        bags are missing after the time-out (the recorder hangs).
        """
        deadline = time.monotonic() + self._timeout_s
        while missing := self.missing(outcome.episode_ids):
            self._process.check()
            if time.monotonic() > deadline or _lost(self._watch.newest):
                log = self._process.log_dir / "recorder.log"
                reason = self._watch.last_error or last_line(log)
                raise UserError(
                    f"{self._bag_dir}: {len(missing)} of {len(outcome.episode_ids)} episodes have no bag, first "
                    f"{missing[0]!r}: recorder: {reason} (log: {log})"
                )
            self._client.spin(POLL_S)


class RunningRecorder:
    """The recorder, if there is one, of a stack that another process has started."""

    def __init__(self, client: StackClient) -> None:
        self._client, self._watch = client, RecorderWatch(client)
        self._discovered_by_s = time.monotonic() + DISCOVERY_S

    def _exists(self) -> bool:
        node = self._client.node
        return self._watch.newest is not None or (
            ("recorder", node.get_namespace()) in node.get_node_names_and_namespaces()
        )

    def wait(self, outcome: Episodes) -> None:
        """Wait until the recorder has closed the bag of the newest episode; return at once without a recorder.

        Raises UserError when the recorder has lost an episode since its first report, or does not close the bag.
        """
        # A short episode in lock-step may end before discovery is complete.
        while not self._exists() and time.monotonic() < self._discovered_by_s:
            self._client.spin(POLL_S)
        if not outcome.episode_ids or not self._exists():
            return
        newest = outcome.episode_ids[-1]
        deadline = time.monotonic() + STATUS_TIMEOUT_S
        while True:
            written = self._watch.newest_episode == one_line(newest)
            if self._watch.lost or (time.monotonic() > deadline and not written):
                reason = self._watch.last_error or "no report on topic recorder_status"
                raise UserError(f"recorder: no bag of every episode, the newest is {newest!r}: {reason}")
            if written:
                return
            self._client.spin(POLL_S)
