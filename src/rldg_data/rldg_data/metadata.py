"""`metadata.yaml` of a rosbag2 bag, version 9 (Jazzy and later)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rldg_core.errors import UserError
from rldg_data.schemas import type_hash

FILE_NAME = "metadata.yaml"
VERSION = 9
_INFORMATION = "rosbag2_bagfile_information"
_INFINITE = {"sec": 9223372036, "nsec": 854775807}


@dataclass(frozen=True)
class Qos:
    """QoS of a recorded topic's publishers, by rosbag2's policy names."""

    reliability: str = "reliable"
    durability: str = "volatile"
    history: str = "keep_last"
    depth: int = 10

    def to_yaml(self) -> str:
        """The list of one profile, as rosbag2 stores it in a channel's metadata."""
        return _dump([self.to_dict()]).strip()

    def to_dict(self) -> dict[str, Any]:
        """The profile with every key rosbag2 reads; what this suite never sets is at its default."""
        return {
            "history": self.history,
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": dict(_INFINITE),
            "lifespan": dict(_INFINITE),
            "liveliness": "automatic",
            "liveliness_lease_duration": dict(_INFINITE),
            "avoid_ros_namespace_conventions": False,
        }


@dataclass(frozen=True)
class Topic:
    """A recorded topic: full name, `package/msg/Type`, QoS of its publishers."""

    name: str
    type: str
    qos: Qos = field(default_factory=Qos)


@dataclass(frozen=True)
class BagInfo:
    """What metadata.yaml says. topics: name -> (type, message count); times in ns since the epoch."""

    path: Path
    file: Path
    start_ns: int
    duration_ns: int
    message_count: int
    topics: Mapping[str, tuple[str, int]]
    custom_data: Mapping[str, str]


def information(
    file_name: str, topics: Sequence[tuple[Topic, int]], start_ns: int, end_ns: int, custom_data: Mapping[str, str]
) -> dict[str, Any]:
    """Build the metadata of a bag of one file. topics: with message counts."""
    start = {"nanoseconds_since_epoch": start_ns}
    duration = {"nanoseconds": end_ns - start_ns}
    count = sum(n for _, n in topics)
    return {
        "version": VERSION,
        "storage_identifier": "mcap",
        "duration": duration,
        "starting_time": start,
        "message_count": count,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": topic.name,
                    "type": topic.type,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [topic.qos.to_dict()],
                    "type_description_hash": type_hash(topic.type),
                },
                "message_count": n,
            }
            for topic, n in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file_name],
        "files": [
            {"path": file_name, "starting_time": dict(start), "duration": dict(duration), "message_count": count}
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


def set_custom_data(folder: Path, custom_data: Mapping[str, str]) -> None:
    """Put custom_data into the metadata.yaml that rosbag2 wrote: it takes them at opening, we know them at closing."""
    document = yaml.load((folder / FILE_NAME).read_text(), Loader=yaml.CSafeLoader)
    document[_INFORMATION]["custom_data"] = dict(custom_data)
    (folder / FILE_NAME).write_text(_dump(document))


def read(folder: Path) -> BagInfo:
    """Read `folder`/metadata.yaml. Raises UserError naming the file when it is missing, foreign or malformed."""
    path = folder / FILE_NAME
    try:
        document = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    except FileNotFoundError as error:
        raise UserError(f"{folder}: not a bag: no {FILE_NAME}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from error
    try:
        return _parse(folder, document[_INFORMATION])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not the metadata of a rosbag2 bag: {type(error).__name__} {error}") from error


def _parse(folder: Path, info: Mapping[str, Any]) -> BagInfo:
    if info["storage_identifier"] != "mcap":
        raise UserError(f"{folder}: storage {info['storage_identifier']!r}, expected mcap")
    if len(info["relative_file_paths"]) != 1:
        raise UserError(f"{folder}: {len(info['relative_file_paths'])} files in one bag, expected 1 (no splitting)")
    topics = {
        str(t["topic_metadata"]["name"]): (str(t["topic_metadata"]["type"]), int(t["message_count"]))
        for t in info["topics_with_message_count"]
    }
    return BagInfo(
        path=folder,
        file=folder / str(info["relative_file_paths"][0]),
        start_ns=int(info["starting_time"]["nanoseconds_since_epoch"]),
        duration_ns=int(info["duration"]["nanoseconds"]),
        message_count=int(info["message_count"]),
        topics=topics,
        custom_data={str(k): str(v) for k, v in (info.get("custom_data") or {}).items()},
    )


def _dump(value: Any) -> str:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, default_flow_style=False, allow_unicode=True)
