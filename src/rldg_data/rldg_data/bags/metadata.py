"""`metadata.yaml` of a rosbag2 bag, version 9 (Jazzy and later)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rldg_core.configuration import parse_yaml, read_yaml
from rldg_core.errors import UserError, one_line
from rldg_data.bags.schemas import schema_text, type_hash

FILE_NAME = "metadata.yaml"
VERSION = 9
_INFORMATION = "rosbag2_bagfile_information"
INFINITE_NS = 2**63 - 1
"""rmw's RMW_DURATION_INFINITE."""


@dataclass(frozen=True)
class Qos:
    """QoS of one publisher of a recorded topic, by rosbag2's policy names; durations in ns."""

    reliability: str = "reliable"
    durability: str = "volatile"
    history: str = "keep_last"
    depth: int = 10
    deadline_ns: int = INFINITE_NS
    lifespan_ns: int = INFINITE_NS
    liveliness: str = "automatic"
    liveliness_lease_ns: int = INFINITE_NS

    def to_dict(self) -> dict[str, Any]:
        """The profile with every key rosbag2 reads."""
        return {
            "history": self.history,
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": _duration(self.deadline_ns),
            "lifespan": _duration(self.lifespan_ns),
            "liveliness": self.liveliness,
            "liveliness_lease_duration": _duration(self.liveliness_lease_ns),
            "avoid_ros_namespace_conventions": False,
        }


def _duration(ns: int) -> dict[str, int]:
    sec, nsec = divmod(ns, 1_000_000_000)
    return {"sec": sec, "nsec": nsec}


@dataclass(frozen=True)
class Topic:
    """A recorded topic: full name, `package/msg/Type`, QoS of each of its publishers.

    given: definition stored in the bag that the topic was read from, which replaces the installed one.
    """

    name: str
    type: str
    qos: tuple[Qos, ...] = (Qos(),)
    given: StoredTopic | None = None

    def definition(self) -> str:
        """Text of the ros2msg schema. Raises UserError when the type is neither given nor installed."""
        return self.given.definition if self.given else schema_text(self.type)

    def hash(self) -> str:
        """RIHS01 hash of the type. Raises UserError as `definition`."""
        return self.given.hash if self.given else type_hash(self.type)

    def qos_text(self) -> str:
        """`offered_qos_profiles` of the channel."""
        return self.given.qos_text if self.given else _dump(self.qos_profiles()).strip()

    def qos_profiles(self) -> list[Any]:
        """`offered_qos_profiles` of metadata.yaml."""
        return self.given.qos_profiles() if self.given else [qos.to_dict() for qos in self.qos]


@dataclass(frozen=True)
class StoredTopic:
    """Definition, type hash and QoS as stored in an MCAP file; the last two may be empty."""

    definition: str
    hash: str
    qos_text: str

    def qos_profiles(self) -> list[Any]:
        """Parse the list in qos_text with policies by name, as in version 9; empty when it is not a list."""
        try:
            profiles = parse_yaml(self.qos_text, "offered_qos_profiles")
        except UserError:
            return []
        if not isinstance(profiles, list) or not all(isinstance(profile, dict) for profile in profiles):
            return []
        return [{key: _policy_name(key, value) for key, value in profile.items()} for profile in profiles]


_POLICIES = {
    "history": ("system_default", "keep_last", "keep_all", "unknown"),
    "reliability": ("system_default", "reliable", "best_effort", "unknown"),
    "durability": ("system_default", "transient_local", "volatile", "unknown"),
    "liveliness": ("system_default", "automatic", "manual_by_node", "manual_by_topic", "unknown"),
}
"""Up to version 8, policies are the numbers of rmw/types.h."""


def _policy_name(key: Any, value: Any) -> Any:
    names = _POLICIES.get(key, ())
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


@dataclass(frozen=True)
class Storage:
    """How a bag is stored, by rosbag2's names. max_bagfile_size [bytes], max_bagfile_duration [s]: 0 never splits."""

    preset: str = "zstd_fast"
    max_bagfile_size: int = 0
    max_bagfile_duration: int = 0


@dataclass(frozen=True)
class FileInfo:
    """One file of a bag; times in ns since the epoch."""

    name: str
    start_ns: int = 0
    end_ns: int = 0
    message_count: int = 0

    def with_message(self, time_ns: int) -> FileInfo:
        """Return a copy with one more message."""
        start_ns = min(self.start_ns, time_ns) if self.message_count else time_ns
        return FileInfo(self.name, start_ns, max(self.end_ns, time_ns), self.message_count + 1)


@dataclass(frozen=True)
class BagInfo:
    """Content of metadata.yaml. topics: name -> (type, message count); times in ns since the epoch; files in order."""

    path: Path
    files: tuple[Path, ...]
    start_ns: int
    duration_ns: int
    message_count: int
    topics: Mapping[str, tuple[str, int]]
    custom_data: Mapping[str, str]

    @property
    def file(self) -> Path:
        """The first file; the only one unless the bag is split."""
        return self.files[0]


def information(
    files: Sequence[FileInfo], topics: Sequence[tuple[Topic, int]], custom_data: Mapping[str, str]
) -> dict[str, Any]:
    """Build the metadata of a bag. topics: with message counts."""
    held = [f for f in files if f.message_count]
    start_ns = min((f.start_ns for f in held), default=0)
    end_ns = max((f.end_ns for f in held), default=0)
    return {
        "version": VERSION,
        "storage_identifier": "mcap",
        "duration": {"nanoseconds": end_ns - start_ns},
        "starting_time": {"nanoseconds_since_epoch": start_ns},
        "message_count": sum(f.message_count for f in files),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": topic.qos_profiles(),
                    "type_description_hash": topic.hash(),
                },
                "message_count": n,
            }
            for topic, n in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [f.name for f in files],
        "files": [
            {
                "path": f.name,
                "starting_time": {"nanoseconds_since_epoch": f.start_ns},
                "duration": {"nanoseconds": f.end_ns - f.start_ns},
                "message_count": f.message_count,
            }
            for f in files
        ],
        "custom_data": dict(custom_data) or None,
        "ros_distro": os.environ.get("ROS_DISTRO", "kilted"),
    }


def to_text(info: Mapping[str, Any]) -> str:
    """The record inside the MCAP file (`serialized_metadata`)."""
    return _dump(dict(info))


def write(folder: Path, info: Mapping[str, Any]) -> None:
    """Write `folder`/metadata.yaml."""
    (folder / FILE_NAME).write_text(_dump({_INFORMATION: dict(info)}))


def read(folder: Path, storage: str | None = "mcap") -> BagInfo:
    """Read `folder`/metadata.yaml. Raises UserError naming the file when it is missing, malformed or not rosbag2's.

    storage: the only accepted one; None: any.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise UserError(f"{folder}: not a bag: no {FILE_NAME}")
    document = read_yaml(path)
    try:
        return _parse(folder, document[_INFORMATION], storage)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not the metadata of a rosbag2 bag: {type(error).__name__} {error}") from error


def custom_data_of(text: str) -> dict[str, str]:
    """custom_data in a `serialized_metadata` record; empty when it is not rosbag2's."""
    try:
        return _custom_data(parse_yaml(text, "serialized_metadata"))
    except (UserError, AttributeError, TypeError, ValueError):
        return {}


def _custom_data(info: Mapping[str, Any]) -> dict[str, str]:
    data = info.get("custom_data") or {}
    if any(isinstance(value, dict | list) for value in data.values()):
        raise ValueError("custom_data has values that are not text")
    return {str(k): str(v) for k, v in data.items()}


def _parse(folder: Path, info: Mapping[str, Any], storage: str | None) -> BagInfo:
    if storage not in (None, info["storage_identifier"]):
        raise UserError(f"{folder}: storage {info['storage_identifier']!r}, expected {storage}")
    names = [str(name) for name in info["relative_file_paths"]]
    if not names:
        raise UserError(f"{folder / FILE_NAME}: relative_file_paths: empty")
    for name in names:
        if Path(name).name != name or name in ("", "..") or not name.isprintable():
            raise UserError(f"{folder / FILE_NAME}: relative_file_paths: {name!r} is not a file name inside the bag")
    topics = {
        str(t["topic_metadata"]["name"]): (str(t["topic_metadata"]["type"]), _int64(t["message_count"], 0))
        for t in info["topics_with_message_count"]
    }
    for text in {*topics, *(kind for kind, _ in topics.values())}:
        if not text.isprintable():
            raise ValueError(f"a topic has the name or type {text!r}")
    count = _int64(info["message_count"], 0)
    # A bag without messages has no start: rosbag2 writes the minimum and maximum of its clock.
    earliest = 0 if count else -(2**63)
    return BagInfo(
        path=folder,
        files=tuple(folder / name for name in names),
        start_ns=_int64(info["starting_time"]["nanoseconds_since_epoch"], earliest),
        duration_ns=_int64(info["duration"]["nanoseconds"], earliest),
        message_count=count,
        topics=topics,
        custom_data=_custom_data(info),
    )


def _int64(value: Any, low: int) -> int:
    number = int(value)
    if not low <= number < 2**63:
        raise ValueError(f"{one_line(value, 60)}, expected a number from {low} to 2^63")
    return number


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
