"""Reading an MCAP file that has lost its end, its index or some of its chunks: what is left, in the file's order."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import breakup_chunk

from rldg_core.errors import UserError
from rldg_core.files import open_regular
from rldg_data.bags.mcap_file import MAGIC
from rldg_data.bags.metadata import GivenTopic, Topic, custom_data_of
from rldg_data.bags.reading import CORRUPT
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

    custom_data: of the newest `rosbag2` record; lost_bytes: of chunks that fail their CRC, and from where records stop
    following each other; compressed: whether some chunk is.
    """

    file: Path
    custom_data: dict[str, str] = field(default_factory=dict)
    lost_bytes: int = 0
    compressed: bool = False
    _schemas: dict[int, Schema] = field(default_factory=dict)
    _topics: dict[int, Topic] = field(default_factory=dict)

    def messages(self) -> Iterator[tuple[Topic, Message]]:
        """All messages that can be read. Raises UserError when the file cannot be opened or is no MCAP file."""
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
                return  # the summary repeats what was read
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
                    # Its channel may have gone with a lost chunk.
                    if record.channel_id in self._topics:
                        yield self._topics[record.channel_id], record
                else:
                    self._learn(record)
            at = end
        self.lost_bytes += size - at

    def _records(self, opcode: int, body: bytes) -> list[McapRecord]:
        """Records of the kinds that matter, those of a chunk included. Raises CORRUPT."""
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
            given = GivenTopic(
                schema.data.decode(errors="replace"),
                values.get("topic_type_hash", ""),
                values.get("offered_qos_profiles", ""),
            )
            self._topics[record.id] = Topic(record.topic, schema.name, given=given)
        elif isinstance(record, Metadata) and record.name == "rosbag2":
            self.custom_data = custom_data_of(record.metadata.get("serialized_metadata", "")) or self.custom_data
