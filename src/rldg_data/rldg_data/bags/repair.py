"""Repair bags that were not closed or lost data: the readable part becomes a valid bag.

Steps are never invented or changed: an episode without its last Step becomes a valid rosbag2 bag marked
`complete: false`, which is not used for training. Marking its last Step as truncated would need a final observation
that was not recorded.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import breakup_chunk

from rldg_core.errors import UserError
from rldg_core.files import open_regular, writing_aside
from rldg_core.types import Step
from rldg_data.bags.cdr import step_decoder
from rldg_data.bags.episode_info import EpisodeInfo, dominant_source
from rldg_data.bags.mcap_writer import MAGIC, McapWriter, is_being_written
from rldg_data.bags.metadata import Storage, StoredTopic, Topic, custom_data_of
from rldg_data.bags.reading import CORRUPT, INCOMPLETE, UNFINISHED, bag_info, is_episode
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.bags.unpacking import check_chunks

_HEAD = struct.Struct("<BQ")
_PLAIN: dict[int, type[Schema] | type[Channel] | type[Metadata]] = {
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.METADATA: Metadata,
}


@dataclass
class Salvage:
    """One pass over a file; the counts are complete when `messages` is exhausted.

    custom_data: of the newest `rosbag2` record; lost_bytes: of chunks with a wrong CRC, and after the last readable
    record; compressed: whether any chunk is.
    """

    file: Path
    custom_data: dict[str, str] = field(default_factory=dict)
    lost_bytes: int = 0
    compressed: bool = False
    _schemas: dict[int, Schema] = field(default_factory=dict)
    _topics: dict[int, Topic] = field(default_factory=dict)

    def messages(self) -> Iterator[tuple[Topic, Message]]:
        """Yield all readable messages. Raises UserError when the file cannot be opened or is not an MCAP file."""
        check_chunks(self.file)
        try:
            with open_regular(self.file) as stream:
                if stream.read(len(MAGIC)) != MAGIC:
                    raise UserError(f"{self.file}: not an MCAP file")
                yield from self._scan(stream, self.file.stat().st_size)
        except OSError as error:
            raise UserError(f"{self.file}: cannot read: {error.strerror or error}") from error

    def _scan(self, stream: IO[bytes], size: int) -> Iterator[tuple[Topic, Message]]:
        at = len(MAGIC)
        while at + _HEAD.size <= size:
            opcode, length = _HEAD.unpack(stream.read(_HEAD.size))
            if opcode == Opcode.DATA_END:
                return  # the summary repeats earlier records
            end = at + _HEAD.size + length
            if not opcode or end > size:
                break
            try:
                records = self._records(opcode, stream.read(length))
            except CORRUPT:
                records = []
                self.lost_bytes += end - at
            for record in records:
                if isinstance(record, Message):
                    # Its channel may have been in a lost chunk.
                    if record.channel_id in self._topics:
                        yield self._topics[record.channel_id], record
                else:
                    self._learn(record)
            at = end
        self.lost_bytes += size - at

    def _records(self, opcode: int, body: bytes) -> list[McapRecord]:
        """Yield the relevant records, including those in chunks. Raises CORRUPT."""
        stream = ReadDataStream(io.BytesIO(body))
        if opcode == Opcode.CHUNK:
            chunk = Chunk.read(stream)
            self.compressed = self.compressed or bool(chunk.compression)
            return breakup_chunk(chunk, validate_crc=True)
        if opcode == Opcode.MESSAGE:
            return [Message.read(stream, len(body))]
        return [_PLAIN[opcode].read(stream)] if opcode in _PLAIN else []

    def _learn(self, record: McapRecord) -> None:
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel) and record.schema_id in self._schemas and record.message_encoding == "cdr":
            schema = self._schemas[record.schema_id]
            values = record.metadata
            given = StoredTopic(
                schema.data.decode(errors="replace"),
                values.get("topic_type_hash", ""),
                values.get("offered_qos_profiles", ""),
            )
            self._topics[record.id] = Topic(record.topic, schema.name, given=given)
        elif isinstance(record, Metadata) and record.name == "rosbag2":
            self.custom_data = custom_data_of(record.metadata.get("serialized_metadata", "")) or self.custom_data


DAMAGED = ".damaged"
"""Suffix of the hidden folder with the original of a repaired bag; globs of recipes do not match it."""


@dataclass(frozen=True)
class RepairResult:
    """Result of a repair. damaged: path of the original; lost_bytes: unreadable bytes.

    complete: whether the Steps are a complete episode; None for a bag without Steps.
    """

    path: Path
    damaged: Path
    messages: int
    steps: int
    lost_bytes: int
    complete: bool | None


def set_partials_aside(bag_dir: Path) -> list[Path]:
    """Move unfinished bags of a killed recorder to `bag_dir`/unfinished and return their new paths.

    Bags that another recorder has open are not moved.
    """
    moved = []
    for folder in sorted(bag_dir.glob(".episode_*.partial")):
        if any(is_being_written(file) for file in folder.rglob("*.mcap")):
            continue
        aside = bag_dir / UNFINISHED / folder.name.strip(".").removesuffix(".partial")
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        moved.append(aside)
    return moved


def damaged_bags(folder: Path) -> list[Path]:
    """Return the bags to repair: the folder itself if it is a bag, else those in it and in its `unfinished`.

    Raises UserError when there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    folder = folder.resolve() if folder.name in ("", "..") else folder
    if any(folder.glob("*.mcap")):
        bags = [folder]
    else:
        left = folder / UNFINISHED
        held = [*folder.iterdir(), *(left.iterdir() if left.is_dir() else ())]
        bags = sorted(p for p in held if p != left and not p.name.startswith(".") and any(p.rglob("*.mcap")))
    if not bags:
        raise UserError(f"{folder}: no bag in it")
    return [bag for bag in bags if not is_sound(bag)]


def is_sound(bag: Path) -> bool:
    """Return whether every message counted in metadata.yaml can be read."""
    try:
        info = bag_info(bag)
        count = 0
        for file in info.files:
            check_chunks(file)
            with open_regular(file) as stream:
                count += sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages(log_time_order=False))
    except (UserError, OSError, *CORRUPT):
        return False
    return count == info.message_count


def repair_bag(bag: Path) -> RepairResult:
    """Restore a damaged bag up to the last complete chunk of each of its files.

    The original is kept beside it as `.<name>.damaged`. Raises UserError when nothing can be restored, leaving the
    folder unchanged.
    """
    files = sorted(bag.rglob("*.mcap"), key=_number)
    if any(is_being_written(file) for file in files):
        raise UserError(f"{bag}: a recorder is writing it")
    damaged = bag.with_name(f".{bag.name}{DAMAGED}")
    if damaged.exists():
        raise UserError(f"{damaged}: already exists: the original of an earlier repair; move it away first")
    steps, passes = [], [Salvage(file) for file in files]
    count = 0
    for one in passes:
        for topic, message in one.messages():
            count += 1
            if topic.type == STEP_TYPE:
                with suppress(AttributeError, *CORRUPT):
                    steps.append(step_decoder(topic.definition())(message.data))
    if not count:
        raise UserError(f"{bag}: nothing to restore: no complete chunk with messages")
    known = next((one.custom_data for one in reversed(passes) if one.custom_data), {})
    complete = is_episode(steps) if steps else None
    restored = bag.with_name(f".{bag.name}.restored")
    with writing_aside(restored) as aside:
        storage = Storage("zstd_fast" if any(one.compressed for one in passes) else "none")
        _write(files, McapWriter(aside, _name(files[0]), storage, known), _custom_data(known, steps, complete))
    bag.rename(damaged)
    restored.rename(bag)
    return RepairResult(bag, damaged, count, len(steps), sum(one.lost_bytes for one in passes), complete)


def _write(files: Sequence[Path], writer: McapWriter, custom_data: Mapping[str, str]) -> None:
    topics: set[str] = set()
    for file in files:
        for topic, message in Salvage(file).messages():
            if topic.name not in topics:
                writer.add_topic(topic)
                topics.add(topic.name)
            writer.write(topic.name, message.data, message.log_time, message.publish_time)
    writer.close(custom_data)


def _custom_data(known: Mapping[str, str], steps: Sequence[Step], complete: bool | None) -> dict[str, str]:
    """Return the bag's metadata, updated from its Steps."""
    data = {key: value for key, value in known.items() if key not in INCOMPLETE}
    if complete is None:
        return data
    with suppress(UserError):
        # A bag with Steps may come from another recorder.
        info = EpisodeInfo.from_custom_data(data, "")
        actions = [step.action for step in steps if not step.is_last]
        last = next((action for action in reversed(actions) if action.policy_id), None)
        info = replace(
            info,
            success=complete and steps[-1].success,
            source=dominant_source(actions).name.lower(),
            policy_id=last.policy_id if last else "",
            policy_version=last.policy_version if last else 0,
            steps=len(actions),
        )
        data |= info.to_custom_data()
    return data if complete else {**data, **INCOMPLETE}


def _number(file: Path) -> tuple[str, int]:
    """Files of a split bag are numbered without leading zeros."""
    stem, _, number = file.stem.rpartition("_")
    return (stem, int(number)) if number.isdecimal() else (file.stem, 0)


def _name(file: Path) -> str:
    return file.stem.rpartition("_")[0] or file.stem
