"""Bags of episodes on disk: finding them, what they say of themselves, reading their Steps, writing them.

A bag is a folder `episode_<number>` with metadata.yaml and one MCAP file, as rosbag2 leaves it behind.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from rosbags.serde import SerdeError

from rldg_core.errors import UserError
from rldg_core.types import Step
from rldg_data import metadata
from rldg_data.cdr import decode_step
from rldg_data.episode_info import EpisodeInfo
from rldg_data.metadata import BagInfo
from rldg_data.schemas import STEP_TYPE

_NAME = re.compile(r"episode_(\d+)")
_CORRUPT = (
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
"""What the decoders raise on bytes that are not what they expect."""


def episode_name(number: int) -> str:
    """Folder name of a bag."""
    return f"episode_{number:06d}"


def find_bags(directory: Path) -> list[Path]:
    """Return the bags of a directory in the order of their numbers.

    Every folder of that name counts, so that a damaged one is reported and not passed over; what a killed
    recorder left (hidden `.partial` folders) does not. Raises UserError when the directory is missing.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory of bags")
    return [path for _, path in sorted(_numbered(directory))]


def next_index(directory: Path) -> int:
    """The number after the highest one in use."""
    return max((number for number, _ in _numbered(directory)), default=-1) + 1


def bag_info(path: Path) -> BagInfo:
    """Read metadata.yaml alone. Raises UserError when it is missing or foreign."""
    return metadata.read(path)


def episode_info(path: Path) -> EpisodeInfo:
    """Read custom_data alone. Raises UserError when this recorder did not write it."""
    return EpisodeInfo.from_custom_data(bag_info(path).custom_data, str(path))


def read_episode(path: Path) -> list[Step]:
    """Read all Steps of a bag, by the schema in the file, in order of their index.

    Raises UserError naming the file when it is truncated, corrupt, foreign, or holds no complete episode.
    """
    info = bag_info(path)
    topics = [name for name, (type_name, _) in info.topics.items() if type_name == STEP_TYPE]
    if len(topics) != 1:
        held = ", ".join(sorted({t for t, _ in info.topics.values()})) or "nothing"
        raise UserError(f"{path}: {len(topics)} topics of type {STEP_TYPE}, expected 1; it holds {held}")
    try:
        content = info.file.read_bytes()
    except OSError as error:
        raise UserError(f"{info.file}: cannot read: {error.strerror or error}") from error
    try:
        steps = _read_steps(content, topics[0])
    except AttributeError as error:
        raise UserError(f"{info.file}: its {STEP_TYPE} is of another version of rldg_msgs: {error}") from error
    except _CORRUPT as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{info.file}: truncated or corrupt: {reason}") from error
    _check(steps, info.file, info.topics[topics[0]][1])
    return steps


def _read_steps(content: bytes, topic: str) -> list[Step]:
    reader = make_reader(io.BytesIO(content), validate_crcs=True)
    steps = []
    for schema, _, message in reader.iter_messages(topics=topic, log_time_order=False):
        if schema is None or schema.encoding != "ros2msg":
            raise ValueError(f"topic {topic} has no ros2msg schema")
        steps.append(decode_step(message.data, schema.data.decode()))
    return sorted(steps, key=lambda step: step.index)


def _check(steps: Sequence[Step], file: Path, expected: int) -> None:
    """Refuse what is not one complete episode: replay and export rely on it."""
    if len(steps) != expected:
        raise UserError(f"{file}: truncated or corrupt: {len(steps)} Steps, metadata.yaml says {expected}")
    if not steps or not steps[0].is_first or not steps[-1].is_last:
        raise UserError(f"{file}: not a complete episode: no first or no last Step")
    if any(s.episode_id != steps[0].episode_id or s.index != i for i, s in enumerate(steps)):
        raise UserError(f"{file}: not one episode: episode ids or indices do not follow each other")


def _numbered(directory: Path) -> list[tuple[int, Path]]:
    paths = directory.iterdir() if directory.is_dir() else ()
    return [(int(m[1]), p) for p in paths if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
