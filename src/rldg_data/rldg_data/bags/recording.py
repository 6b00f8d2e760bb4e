"""Split a stream of Steps into bags: one closed bag per complete episode; incomplete episodes are dropped."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

from rldg_core.errors import UserError, one_line
from rldg_core.files import writing_aside
from rldg_core.types import ExecutedAction, Step
from rldg_data.bags.cdr import encode_step, step_decoder
from rldg_data.bags.episode_info import EpisodeInfo, RecordedTask
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Qos, Storage, Topic
from rldg_data.bags.reading import CORRUPT, INCOMPLETE, episode_name, next_index
from rldg_data.bags.schemas import STEP_TYPE, schema_text

STEP_QOS = (Qos(durability="transient_local", depth=1000),)
"""QoS of `step` as published by the episode manager (rldg_ros.qos.STEPS_OUT)."""

RECENT_NS = 500_000_000
RECENT_MESSAGES = 1000
"""Raw messages buffered between two episodes: more than one control period at the vendors' rates."""


def utc_now() -> str:
    """Wall time for custom_data."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Counters:
    """closed: bags; dropped: incomplete episodes; failed: episodes lost to a write error; ignored: stray Steps.

    newest_episode: id of the newest closed bag, as one line.
    """

    closed: int = 0
    dropped: int = 0
    failed: int = 0
    ignored: int = 0
    last_error: str = ""
    newest_episode: str = ""


@dataclass
class _OpenEpisode:
    """The episode being written."""

    path: Path
    writer: McapWriter
    aside: ExitStack
    first: Step
    topics: set[str]
    actions: list[ExecutedAction] = field(default_factory=list)


class EpisodeRecorder:
    """Open a bag at is_first and close it at is_last; numbering continues after the bags in `bag_dir`.

    On a full disk the open episode is dropped and counted; recording resumes with the next one.
    """

    def __init__(
        self,
        bag_dir: Path,
        task: RecordedTask,
        step_topic: str = "/rldg/step",
        storage: Storage | None = None,
        wall_time: Callable[[], str] = utc_now,
    ) -> None:
        self.counters = Counters()
        self._bag_dir = bag_dir
        self._task = task
        self._step_topic = Topic(step_topic, STEP_TYPE, STEP_QOS)
        self._decode = step_decoder(schema_text(STEP_TYPE))
        self._storage = storage or Storage()
        self._wall_time = wall_time
        self._newest_ns = 0
        self._open: _OpenEpisode | None = None
        self._latched: dict[str, tuple[Topic, bytes, int]] = {}
        self._recent: deque[tuple[Topic, bytes, int]] = deque(maxlen=RECENT_MESSAGES)

    def add_step(self, data: bytes, log_time_ns: int | None = None) -> Path | None:
        """Take one Step (CDR). Returns the path of a bag that this Step completed.

        log_time_ns: time of arrival; default: the stamp of the observation (lock-step: repeatable bags; or no
        running clock).
        """
        try:
            step = self._decode(data)
        except (AttributeError, *CORRUPT) as error:
            self._count(ignored=1, error=f"{self._step_topic.name}: malformed Step: {error}")
            return None
        if step.observation.stamp_ns < 0:
            self._count(ignored=1, error=f"{self._step_topic.name}: Step {step.index}: its stamp is before the epoch")
            return None
        time_ns = self._newest_ns = step.observation.stamp_ns if log_time_ns is None else log_time_ns
        if step.is_first:
            self.abandon()
            self._try(lambda: self._start(step, time_ns))
        elif self._open and not self._continues(step):
            self.abandon()
        if not self._open:
            self._count(ignored=1)
            return None
        return self._try(lambda: self._append(step, data, time_ns))

    def add_raw(self, topic: Topic, data: bytes, log_time_ns: int | None) -> None:
        """Take one message (CDR) of an extra topic. log_time_ns: None: that of the newest message.

        Between episodes the newest message of each transient-local topic and the last moments of all topics are
        buffered: the first Step arrives one period after the data of its observation.
        """
        time_ns = self._newest_ns = self._newest_ns if log_time_ns is None else log_time_ns
        if self._open:
            self._try(lambda: self._write_raw(topic, data, time_ns))
        else:
            self._recent.append((topic, data, time_ns))
            # A simulated clock may jump back.
            while not time_ns - RECENT_NS <= self._recent[0][2] <= time_ns:
                self._recent.popleft()
        if any(qos.durability == "transient_local" for qos in topic.qos):
            self._latched[topic.name] = (topic, data, time_ns)

    def abandon(self) -> None:
        """Drop the open episode, if any, and count it."""
        if self._open:
            self._discard()
            self._count(dropped=1)

    def _continues(self, step: Step) -> bool:
        assert self._open
        return step.episode_id == self._open.first.episode_id and step.index == len(self._open.actions)

    def _start(self, first: Step, time_ns: int) -> None:
        if first.task != self._task.name:
            # The bag would carry the action scale of the wrong task.
            raise UserError(f"{self._step_topic.name}: episode of task {first.task!r}, recording {self._task.name!r}")
        path = self._bag_dir / episode_name(next_index(self._bag_dir))
        aside = ExitStack()
        folder = aside.enter_context(writing_aside(path))
        try:
            writer = McapWriter(folder, path.name, self._storage, self._unfinished(first))
        except BaseException:
            _discard(aside)
            raise
        self._open = _OpenEpisode(path, writer, aside, first, set())
        self._register(self._step_topic)
        for topic, data, stamp in self._recent:
            if stamp >= first.observation.stamp_ns:
                self._write_raw(topic, data, stamp)
        self._recent.clear()
        for topic, data, stamp in self._latched.values():
            if topic.name not in self._open.topics:
                # rosbag2 would receive it again with a subscription per episode; the log time is that of the episode.
                self._write_raw(topic, data, max(stamp, time_ns))

    def _unfinished(self, first: Step) -> dict[str, str]:
        """custom_data of the open bag, from which a repair starts."""
        return {**self._info(first, [], False), **INCOMPLETE}

    def _info(self, first: Step, actions: Sequence[ExecutedAction], success: bool) -> dict[str, str]:
        return EpisodeInfo.of(first, actions, success, self._task, self._wall_time()).to_custom_data()

    def _append(self, step: Step, data: bytes, time_ns: int) -> Path | None:
        bag = self._open
        assert bag
        bag.writer.write(self._step_topic.name, data, time_ns, step.observation.stamp_ns)
        if not step.is_last:
            bag.actions.append(step.action)
            return None
        bag.writer.close(self._info(bag.first, bag.actions, step.success))
        bag.aside.close()
        self._open = None
        self._count(closed=1)
        self.counters = replace(self.counters, newest_episode=one_line(bag.first.episode_id))
        return bag.path

    def _write_raw(self, topic: Topic, data: bytes, log_time_ns: int) -> None:
        assert self._open
        if topic.name not in self._open.topics:
            self._register(topic)
        self._open.writer.write(topic.name, data, log_time_ns, log_time_ns)

    def _register(self, topic: Topic) -> None:
        assert self._open
        self._open.writer.add_topic(topic)
        self._open.topics.add(topic.name)

    def _try(self, action: Callable[[], Path | None]) -> Path | None:
        """Run a write; on failure drop and count the open episode."""
        try:
            return action()
        except OSError as error:
            self._count(failed=1, error=f"{self._bag_dir}: cannot write: {error.strerror or error}")
        except UserError as error:
            self._count(failed=1, error=str(error))
        except CORRUPT as error:
            # Numbers out of MCAP's range, and other malformed input.
            self._count(failed=1, error=f"{self._bag_dir}: cannot write: {type(error).__name__}: {error}")
        self._discard()
        return None

    def _discard(self) -> None:
        bag, self._open = self._open, None
        if bag:
            bag.writer.abort()
            _discard(bag.aside)

    def _count(self, closed: int = 0, dropped: int = 0, failed: int = 0, ignored: int = 0, error: str = "") -> None:
        now = self.counters
        self.counters = replace(
            now,
            closed=now.closed + closed,
            dropped=now.dropped + dropped,
            failed=now.failed + failed,
            ignored=now.ignored + ignored,
            last_error=one_line(error) or now.last_error,
        )


class _Discarded(Exception):
    """Leave `writing_aside` so that it removes the partial bag."""


def _discard(aside: ExitStack) -> None:
    with suppress(_Discarded), aside:
        raise _Discarded


def write_episode(bag_dir: Path, steps: Sequence[Step], task: RecordedTask, wall_time: str = "") -> Path:
    """Write one complete episode as the next bag of `bag_dir` and return its path.

    Raises UserError when the episode is incomplete or cannot be written.
    """
    recorder = EpisodeRecorder(bag_dir, task, wall_time=lambda: wall_time or utc_now())
    paths = [recorder.add_step(encode_step(step)) for step in steps]
    recorder.abandon()
    if not paths or paths[-1] is None:
        raise UserError(recorder.counters.last_error or f"{bag_dir}: the Steps to write are not a complete episode")
    return paths[-1]
