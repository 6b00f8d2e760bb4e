"""Limits on decompressed size, checked by the headers before anything is decompressed.

A kilobyte of zstd can expand to gigabytes. The limits are far above what cameras and drivers record.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, error
from typing import IO, NamedTuple

import lz4.frame
import zstandard
from mcap.opcode import Opcode

from rldg_core.errors import UserError
from rldg_core.files import open_regular

MAX_UNPACKED_BYTES = 256 * 2**20
"""Limit of an MCAP chunk or a message. A chunk has a few MB, or one message: 25 MB for a 4K image."""
MAX_RATIO = 1000
"""Limit of a file that is compressed as a whole; uncompressed black images reach some hundreds."""
_MIN_FILE_BYTES = 64 * 2**20
_MAGIC_BYTES = 8
_RECORD = Struct("<BQ")
_CHUNK_HEAD = Struct("<QQQII")
_LENGTH = Struct("<Q")
_HEADER_BYTES = 18
"""Maximum size of a zstd frame header."""
_BLOCK_BYTES = 1 << 20


def check_chunks(file: Path, *, every_frame: bool = False) -> None:
    """Refuse an MCAP file with a chunk that unpacks to more than declared, or to more than MAX_UNPACKED_BYTES.

    Only headers are read, except that lz4, whose headers have no size, is decompressed. every_frame: decompress zstd as
    well, for a reader that reads all frames. Damaged files are left to the reader. Raises UserError naming the file.
    """
    with open_regular(file) as stream:
        try:
            for chunk in _chunks(stream):
                _check(chunk, stream, every_frame)
        except (error, OSError, zstandard.ZstdError, RuntimeError):
            return
        except ValueError as reason:
            raise UserError(f"{file}: {reason}") from reason


class _Chunk(NamedTuple):
    """at: offset of the chunk's record; data, size: offset and number of its compressed bytes."""

    at: int
    unpacked: int
    compression: str
    data: int
    size: int


def _chunks(stream: IO[bytes]) -> Iterator[_Chunk]:
    end = stream.seek(0, io.SEEK_END)
    at = _MAGIC_BYTES
    while at + _RECORD.size <= end:
        stream.seek(at)
        opcode, length = _RECORD.unpack(stream.read(_RECORD.size))
        following = at + _RECORD.size + length
        if opcode == Opcode.DATA_END or following > end:
            return
        if opcode == Opcode.CHUNK:
            _, _, unpacked, _, name = _CHUNK_HEAD.unpack(stream.read(_CHUNK_HEAD.size))
            compression = stream.read(min(name, 16)).decode(errors="replace")
            (size,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            yield _Chunk(at, unpacked, compression, stream.tell(), size)
        at = following


def _check(chunk: _Chunk, stream: IO[bytes], every_frame: bool) -> None:
    where = f"chunk at byte {chunk.at}"
    if chunk.unpacked > MAX_UNPACKED_BYTES:
        raise ValueError(f"{where} unpacks to {chunk.unpacked:,} bytes, expected at most {MAX_UNPACKED_BYTES:,}")
    stream.seek(chunk.data)
    found = 0
    if chunk.compression == "zstd":
        found = zstandard.frame_content_size(stream.read(min(chunk.size, _HEADER_BYTES)))
        if every_frame and found <= chunk.unpacked:
            stream.seek(chunk.data)
            found = _count(stream.read(chunk.size), chunk.unpacked)
    elif chunk.compression == "lz4":
        unpacker = lz4.frame.LZ4FrameDecompressor()
        found = len(unpacker.decompress(stream.read(chunk.size), max_length=chunk.unpacked + 1))
    if found > chunk.unpacked:
        raise ValueError(f"{where} unpacks to more than the {chunk.unpacked:,} bytes declared in its header")


def _count(data: bytes, limit: int) -> int:
    """Return the decompressed size of zstd data; stops above the limit."""
    total = 0
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as unpacked:
        while total <= limit and (block := unpacked.read(_BLOCK_BYTES)):
            total += len(block)
    return total


def unpack_message(data: bytes) -> bytes:
    """Unpack an individually compressed message. Raises ValueError above MAX_UNPACKED_BYTES, ZstdError."""
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as unpacked:
        message = unpacked.read(MAX_UNPACKED_BYTES + 1)
    if len(message) > MAX_UNPACKED_BYTES:
        raise ValueError(f"a message unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
    return message


def check_compressed(file: Path) -> None:
    """Refuse a zstd file that unpacks to more than MAX_RATIO times its size (or 64 MiB). Raises UserError."""
    with open_regular(file) as stream:
        limit = max(_MIN_FILE_BYTES, MAX_RATIO * stream.seek(0, io.SEEK_END))
        stream.seek(0)
        total = 0
        try:
            with zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True) as unpacked:
                while total <= limit and (block := unpacked.read(_BLOCK_BYTES)):
                    total += len(block)
        except (OSError, zstandard.ZstdError):
            return  # left to its reader
    if total > limit:
        raise UserError(f"{file}: unpacks to more than {limit:,} bytes: {MAX_RATIO} times its size")
