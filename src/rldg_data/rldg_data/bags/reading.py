"""Find bags of episodes on disk and read their metadata and Steps.

A bag is a folder `episode_<number>` with metadata.yaml and MCAP files, as written by rosbag2.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import IO

import zstandard
from blake3 import blake3
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Chunk, Schema
from mcap.stream_reader import get_chunk_data_stream
from mcap.summary import Summary
from rosbags.serde import SerdeError

from rldg_core.errors import UserError
from rldg_core.files import open_regular
from rldg_core.types import Step
from rldg_data.bags import metadata
from rldg_data.bags.cdr import step_decoder
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.metadata import BagInfo
from rldg_data.bags.schemas import STEP_TYPE
from rldg_data.bags.unpacking import check_chunks

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


UNFINISHED = "unfinished"
"""Folder beside the bags for unfinished bags of a killed recorder."""
INCOMPLETE: Mapping[str, str] = {"complete": "false"}
"""custom_data of a bag with a partial episode: never closed, or repaired after losing its end."""

_NAME = re.compile(r"episode_(\d+)")
CORRUPT = (
    McapError,
    zstandard.ZstdError,
    SerdeError,
    struct.error,
    ValueError,
    LookupError,
    EOFError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    TypeError,
)
"""Exceptions of the decoders on malformed bytes."""


@dataclass(frozen=True)
class Recording:
    """Content of a bag for an export: custom_data, Steps in order, hash of the MCAP files."""

    info: EpisodeInfo
    steps: list[Step]
    blake3: str


def episode_name(number: int) -> str:
    """Folder name of a bag."""
    return f"episode_{number:06d}"


def find_bags(directory: Path) -> list[Path]:
    """Return the bags of a directory in the order of their numbers.

    Every folder of that name counts, so that a damaged one is reported; hidden `.partial` folders of a killed
    recorder do not. Raises UserError when the directory is missing.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory of bags")
    return [path for _, path in sorted(_numbered(directory))]


def next_index(directory: Path) -> int:
    """Return the next free number."""
    return max((number for number, _ in _numbered(directory)), default=-1) + 1


def bag_info(path: Path) -> BagInfo:
    """Read metadata.yaml alone. Raises UserError when it is missing or not rosbag2's."""
    return metadata.read(path)


def content_blake3(path: Path) -> str:
    """Hexadecimal BLAKE3 over the MCAP files of a bag, in order: a dozen times as fast as SHA-256 without its CPU
    instructions, where that was a quarter of an export. Raises UserError naming a file."""
    return _content_blake3(bag_info(path))


def _content_blake3(info: BagInfo) -> str:
    digest = blake3()
    for file in info.files:
        with open_regular(file) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def episode_info(path: Path) -> EpisodeInfo:
    """Read custom_data alone. Raises UserError when it is not of this recorder, or the episode is incomplete."""
    return episode_of(bag_info(path))


def episode_of(info: BagInfo) -> EpisodeInfo:
    """`episode_info` for a metadata.yaml that was already read."""
    _refuse_incomplete(info)
    return EpisodeInfo.from_custom_data(info.custom_data, str(info.path))


def read_episode(path: Path) -> list[Step]:
    """Read all Steps of a bag, by the schema in the file, in order of their index.

    Raises UserError naming the file when it is truncated, corrupt, or not a complete episode.
    """
    return _episode(bag_info(path))


def read_recording(path: Path) -> Recording:
    """`read_episode`, `episode_info` and `content_blake3` of a bag whose metadata.yaml is parsed once."""
    info = bag_info(path)
    steps = _episode(info)
    return Recording(episode_of(info), steps, _content_blake3(info))


def _episode(info: BagInfo) -> list[Step]:
    _refuse_incomplete(info)
    steps = _read_steps(info)
    _check(steps, _where(info))
    return steps


def read_steps(path: Path) -> list[Step]:
    """`read_episode`, also of an incomplete episode."""
    return _read_steps(bag_info(path))


def _read_steps(info: BagInfo) -> list[Step]:
    topics = [name for name, (type_name, _) in info.topics.items() if type_name == STEP_TYPE]
    if len(topics) != 1:
        held = ", ".join(sorted({t for t, _ in info.topics.values()})) or "nothing"
        raise UserError(f"{info.path}: {len(topics)} topics of type {STEP_TYPE}, expected 1; it holds {held}")
    steps = [step for file in info.files for step in _read_file(file, topics[0])]
    expected = info.topics[topics[0]][1]
    if len(steps) != expected:
        raise UserError(
            f"{_where(info)}: truncated or corrupt: {len(steps)} Steps, {metadata.FILE_NAME} says {expected}"
        )
    return sorted(steps, key=lambda step: step.index)


def _where(info: BagInfo) -> Path:
    return info.file if len(info.files) == 1 else info.path


def _refuse_incomplete(info: BagInfo) -> None:
    if info.custom_data.get("complete") == INCOMPLETE["complete"]:
        raise UserError(f"{info.path}: incomplete episode (its recorder was killed): not usable for training")


def _read_file(file: Path, topic: str) -> list[Step]:
    check_chunks(file)
    with open_regular(file) as stream:
        try:
            return list(_steps(stream, topic))
        except AttributeError as error:
            raise UserError(f"{file}: its {STEP_TYPE} has another version of rldg_msgs: {error}") from error
        except CORRUPT as error:
            raise UserError(f"{file}: truncated or corrupt: {first_line(error)}") from error
        except OSError as error:
            # EINVAL: the file is too short for its footer, or an offset in it is wrong.
            reason = "truncated or corrupt" if error.errno == errno.EINVAL else "cannot read"
            raise UserError(f"{file}: {reason}: {error.strerror or error}") from error


def _steps(stream: IO[bytes], topic: str) -> Iterator[Step]:
    decoders: dict[int, Callable[[bytes], Step]] = {}
    for schema, data in messages(stream, topic):
        if schema is None or schema.encoding != "ros2msg":
            raise ValueError(f"topic {topic} has no ros2msg schema")
        if schema.id not in decoders:
            decoders[schema.id] = step_decoder(schema.data.decode())
        yield decoders[schema.id](data)


def first_line(error: Exception) -> str:
    """Return the message of an exception as one printable line."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if line.isprintable() else repr(line)


def is_episode(steps: Sequence[Step]) -> bool:
    """Return whether Steps, in order, form one complete episode."""
    whole = bool(steps) and steps[0].is_first and steps[-1].is_last
    return whole and not any(s.episode_id != steps[0].episode_id or s.index != i for i, s in enumerate(steps))


def _check(steps: Sequence[Step], where: Path) -> None:
    """Refuse an incomplete episode, since replay and export rely on complete ones."""
    if not steps or not steps[0].is_first or not steps[-1].is_last:
        raise UserError(f"{where}: not a complete episode: no first or no last Step")
    if not is_episode(steps):
        raise UserError(f"{where}: not one episode: episode ids or indices are not consecutive")


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    paths = directory.iterdir() if directory.is_dir() else ()
    return [(int(m[1]), p) for p in paths if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
