"""Write bags: an MCAP file chunk by chunk, so that a killed process loses little (mcap.dev/spec), and its metadata.

The `mcap` library's writer completes a chunk by size alone and supports one zstd level. Its record types are used
here, and its reader reads the result.
"""

from __future__ import annotations

import fcntl
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import IO

import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from rldg_core.files import open_regular
from rldg_data.bags import metadata
from rldg_data.bags.metadata import FileInfo, Storage, Topic

MAGIC = b"\x89MCAP0\r\n"
_MESSAGE = Struct("<BQHIQQ")
_MESSAGE_FIELDS = _MESSAGE.size - 9
_CHUNK = Struct("<BQQQQI")
_FOOTER = Struct("<BQQQ")


@dataclass(frozen=True)
class Compression:
    """zstd level (None: uncompressed) and chunk size, as in rosbag2's storage presets."""

    level: int | None
    chunk_bytes: int = 768 * 1024


PRESETS = {
    "none": Compression(None),
    "zstd_fast": Compression(-5),
    # rosbag2 uses level 19, the slowest, which cannot keep up with a camera.
    "zstd_small": Compression(9, 4 * 1024 * 1024),
}
"""rosbag2's presets with an index. Unlike its zstd_fast, ours write the CRC of every chunk."""


@dataclass
class _OpenChunk:
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    start_ns: int = 0
    end_ns: int = 0
    index: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, *parts: bytes) -> None:
        self.parts.extend(parts)
        self.size += sum(map(len, parts))


class McapFile:
    """Writer of one MCAP file; a chunk is flushed when it is full, or after `flush_ns` of log time."""

    def __init__(self, path: Path, compression: Compression, flush_ns: int = 1_000_000_000) -> None:
        self._compression = compression
        self._compress = _compressor(compression.level)
        self._flush_ns = flush_ns
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunk = _OpenChunk()
        self._chunk_indexes: list[ChunkIndex] = []
        self._metadata_indexes: list[MetadataIndex] = []
        self._counts: Counter[int] = Counter()
        self._start_ns = self._end_ns = 0
        self._file: IO[bytes] = path.open("wb", buffering=0)
        with suppress(OSError):
            # Some network file systems have no locks.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._size = 0
        self._put(MAGIC + _bytes(Header("ros2", "rldg_data")))

    @property
    def size(self) -> int:
        """Bytes written, the open chunk included."""
        return self._size + self._chunk.size

    def add_schema(self, name: str, text: str) -> int:
        """Add a ros2msg definition and return its id."""
        schema = Schema(id=len(self._schemas) + 1, data=text.encode(), encoding="ros2msg", name=name)
        self._schemas.append(schema)
        self._chunk.add(_bytes(schema))
        return schema.id

    def add_channel(self, topic: str, schema_id: int, metadata: Mapping[str, str]) -> int:
        """Add a channel of CDR messages and return its id."""
        channel = Channel(
            id=len(self._channels) + 1,
            topic=topic,
            message_encoding="cdr",
            metadata=dict(metadata),
            schema_id=schema_id,
        )
        self._channels.append(channel)
        self._chunk.add(_bytes(channel))
        return channel.id

    def add_message(self, channel: int, log_time_ns: int, publish_time_ns: int, data: bytes) -> None:
        """Append one message. Raises OSError when a chunk cannot be written."""
        chunk = self._chunk
        if chunk.index and log_time_ns - chunk.start_ns >= self._flush_ns:
            self._write_chunk()
            chunk = self._chunk
        chunk.start_ns = min(chunk.start_ns, log_time_ns) if chunk.index else log_time_ns
        chunk.end_ns = max(chunk.end_ns, log_time_ns)
        chunk.index.setdefault(channel, []).append((log_time_ns, chunk.size))
        head = (Opcode.MESSAGE, _MESSAGE_FIELDS + len(data), channel, self._counts[channel])
        chunk.add(_MESSAGE.pack(*head, log_time_ns, publish_time_ns), data)
        self._start_ns = min(self._start_ns, log_time_ns) if self._counts else log_time_ns
        self._end_ns = max(self._end_ns, log_time_ns)
        self._counts[channel] += 1
        if chunk.size >= self._compression.chunk_bytes:
            self._write_chunk()

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Append a metadata record."""
        record = _bytes(Metadata(name=name, metadata=dict(values)))
        self._metadata_indexes.append(MetadataIndex(offset=self._size, length=len(record), name=name))
        self._put(record)

    def flush(self) -> None:
        """Write the open chunk."""
        if self._chunk.size:
            self._write_chunk()

    def close(self) -> None:
        """Write the last chunk and the summary; the file is complete afterwards."""
        self.flush()
        self._put(_bytes(DataEnd(0)))
        start = self._size
        groups: list[tuple[int, list[McapRecord]]] = [
            (Opcode.SCHEMA, [*self._schemas]),
            (Opcode.CHANNEL, [*self._channels]),
            (Opcode.STATISTICS, [self._statistics()]),
            (Opcode.CHUNK_INDEX, [*self._chunk_indexes]),
            (Opcode.METADATA_INDEX, [*self._metadata_indexes]),
        ]
        summary = bytearray()
        offsets = bytearray()
        for opcode, records in groups:
            content = b"".join(map(_bytes, records))
            if content:
                offsets += _bytes(SummaryOffset(opcode, start + len(summary), len(content)))
                summary += content
        offset_start = start + len(summary)
        summary += offsets
        crc = zlib.crc32(_FOOTER.pack(Opcode.FOOTER, 20, start, offset_start), zlib.crc32(summary))
        footer = Footer(summary_start=start, summary_offset_start=offset_start, summary_crc=crc)
        self._put(bytes(summary) + _bytes(footer) + MAGIC)
        self._file.close()

    def abort(self) -> None:
        """Close the file without completing it."""
        self._file.close()

    def _write_chunk(self) -> None:
        chunk, self._chunk = self._chunk, _OpenChunk()
        content = b"".join(chunk.parts)
        name, packed = self._compress(content)
        method = len(name).to_bytes(4, "little") + name.encode()
        length = _CHUNK.size - 9 + len(method) + 8 + len(packed)
        head = _CHUNK.pack(Opcode.CHUNK, length, chunk.start_ns, chunk.end_ns, len(content), zlib.crc32(content))
        start = self._size
        self._put(head + method + len(packed).to_bytes(8, "little") + packed)
        indexes = {c: _bytes(MessageIndex(channel_id=c, records=r)) for c, r in chunk.index.items()}
        offsets, at = {}, self._size
        for channel, record in indexes.items():
            offsets[channel] = at
            at += len(record)
        index = ChunkIndex(
            chunk_length=9 + length,
            chunk_start_offset=start,
            compression=name,
            compressed_size=len(packed),
            message_end_time=chunk.end_ns,
            message_index_length=at - self._size,
            message_index_offsets=offsets,
            message_start_time=chunk.start_ns,
            uncompressed_size=len(content),
        )
        self._put(b"".join(indexes.values()))
        self._chunk_indexes.append(index)

    def _statistics(self) -> Statistics:
        return Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=dict(self._counts),
            chunk_count=len(self._chunk_indexes),
            message_count=self._counts.total(),
            metadata_count=len(self._metadata_indexes),
            message_start_time=self._start_ns,
            message_end_time=self._end_ns,
            schema_count=len(self._schemas),
        )

    def _put(self, data: bytes) -> None:
        """Write all bytes; an unbuffered write may be partial."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._size += len(data)


def is_being_written(path: Path) -> bool:
    """Return whether a running process has a McapFile open at this path (its lock is held)."""
    with open_regular(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _bytes(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return bytes(builder.end())  # type: ignore[no-untyped-call]


def _compressor(level: int | None) -> Callable[[bytes], tuple[str, bytes]]:
    if level is None:
        return lambda content: ("", content)
    zstd = zstandard.ZstdCompressor(level=level)
    return lambda content: ("zstd", zstd.compress(content))


class McapWriter:
    """One bag, `<folder>/<name>_0.mcap` and, when split, `_1`, `_2` ... The bag is valid once `close` has returned.

    As in rosbag2, a file begins and ends with the metadata known at that time; `custom_data` is that of the beginning.
    """

    def __init__(self, folder: Path, name: str, storage: Storage, custom_data: Mapping[str, str]) -> None:
        self._folder, self._name, self._storage = folder, name, storage
        self._custom_data = custom_data
        self._topics: dict[str, Topic] = {}
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._files: list[FileInfo] = []
        folder.mkdir(parents=True)
        self._file = self._next_file()

    def add_topic(self, topic: Topic) -> None:
        """Register a topic before its first message. Raises UserError when its type is not installed."""
        if topic.type not in self._schemas:
            self._schemas[topic.type] = self._file.add_schema(topic.type, topic.definition())
        qos = {"offered_qos_profiles": topic.qos_text(), "topic_type_hash": topic.hash()}
        self._channels[topic.name] = self._file.add_channel(topic.name, self._schemas[topic.type], qos)
        self._topics[topic.name] = topic

    def write(self, topic: str, data: bytes, log_time_ns: int, publish_time_ns: int) -> None:
        """Append one CDR message. Raises OSError when the disk is full."""
        info = self._files[-1]
        if info.message_count and self._is_full(log_time_ns - info.start_ns):
            self._split()
            info = self._files[-1]
        self._file.add_message(self._channels[topic], log_time_ns, publish_time_ns, data)
        self._counts[topic] += 1
        self._files[-1] = info.with_message(log_time_ns)

    def close(self, custom_data: Mapping[str, str]) -> None:
        """Write index and metadata; the bag is complete afterwards."""
        self._custom_data = custom_data
        self._end_file()
        metadata.write(self._folder, self._information())

    def abort(self) -> None:
        """Close the file; the caller removes the folder."""
        self._file.abort()

    def _is_full(self, duration_ns: int) -> bool:
        """Split as rosbag2 does: the limits are checked before a message is written."""
        limit = self._storage
        by_size = limit.max_bagfile_size and self._file.size >= limit.max_bagfile_size
        by_time = limit.max_bagfile_duration and duration_ns > limit.max_bagfile_duration * 1_000_000_000
        return bool(by_size or by_time)

    def _split(self) -> None:
        self._end_file()
        self._schemas = {}
        self._file = self._next_file()
        for topic in list(self._topics.values()):
            self.add_topic(topic)

    def _next_file(self) -> McapFile:
        file_name = f"{self._name}_{len(self._files)}.mcap"
        file = McapFile(self._folder / file_name, PRESETS[self._storage.preset])
        self._files.append(FileInfo(file_name))
        self._file = file
        self._put_metadata()
        return file

    def _end_file(self) -> None:
        self._file.flush()
        self._put_metadata()
        self._file.close()

    def _put_metadata(self) -> None:
        self._file.add_metadata("rosbag2", {"serialized_metadata": metadata.to_text(self._information())})

    def _information(self) -> dict[str, object]:
        topics = [(topic, self._counts[name]) for name, topic in self._topics.items()]
        return metadata.information(self._files, topics, self._custom_data)
