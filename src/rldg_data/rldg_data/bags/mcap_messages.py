"""Read the messages of one topic of an MCAP file in file order, using its index.

The library creates an object per record; iterating over the bytes of a chunk takes a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import IO

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Chunk, Schema
from mcap.stream_reader import get_chunk_data_stream
from mcap.summary import Summary

_RECORD = Struct("<BQ")
_CHANNEL_ID = Struct("<H")
_MESSAGE_HEAD = 2 + 4 + 8 + 8
"""Channel id, sequence, log time and publish time precede a message's bytes."""


def messages(stream: IO[bytes], topic: str) -> Iterator[tuple[Schema | None, bytes]]:
    """(schema, bytes) of every message; the CRC of every chunk is checked.

    Raises the exceptions of the mcap library and struct on a damaged file.
    """
    reader = make_reader(stream, validate_crcs=True)
    summary = reader.get_summary()
    if summary is None or not summary.chunk_indexes:
        for schema, _, message in reader.iter_messages(topics=topic, log_time_order=False):
            yield schema, message.data
        return
    channels = {number for number, channel in summary.channels.items() if channel.topic == topic}
    for index in sorted(summary.chunk_indexes, key=lambda index: index.chunk_start_offset):
        if index.message_index_offsets and not channels & index.message_index_offsets.keys():
            continue
        stream.seek(index.chunk_start_offset + _RECORD.size)
        data, size = get_chunk_data_stream(Chunk.read(ReadDataStream(stream)), validate_crc=True)
        yield from _of_chunk(data.read(size), summary, channels)


def _of_chunk(data: bytes, summary: Summary, channels: set[int]) -> Iterator[tuple[Schema | None, bytes]]:
    at = 0
    while at < len(data):
        opcode, length = _RECORD.unpack_from(data, at)
        begin = at + _RECORD.size
        at = begin + length
        if at > len(data):
            raise ValueError("a record exceeds its chunk")
        if opcode != Opcode.MESSAGE:
            continue
        (number,) = _CHANNEL_ID.unpack_from(data, begin)
        if number in channels:
            yield summary.schemas.get(summary.channels[number].schema_id), data[begin + _MESSAGE_HEAD : at]
