"""The same bag by rosbag2's own writer, where a full ROS installation has one (never on the wheel path)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rldg_data.bags import metadata
from rldg_data.bags.metadata import Storage, Topic


def is_available() -> bool:
    """Whether rosbag2_py can be imported."""
    return importlib.util.find_spec("rosbag2_py") is not None


class Rosbag2Writer:
    """`McapWriter`'s methods over rosbag2_py.SequentialWriter."""

    def __init__(self, folder: Path, name: str, storage: Storage, custom_data: Mapping[str, str]) -> None:
        self._rosbag2: Any = importlib.import_module("rosbag2_py")
        self._folder = folder
        # rosbag2 names the file after its folder, so the folder has the final name from the start.
        self._bag = folder / name
        folder.mkdir(parents=True)
        self._topics = 0
        self._writer: Any = self._rosbag2.SequentialWriter()
        options = self._rosbag2.StorageOptions(
            uri=str(self._bag),
            storage_id="mcap",
            storage_preset_profile=storage.preset,
            max_bagfile_size=storage.max_bagfile_size,
            max_bagfile_duration=storage.max_bagfile_duration,
            custom_data=dict(custom_data),
        )
        with _as_os_error():
            self._writer.open(options, self._rosbag2.ConverterOptions("cdr", "cdr"))

    def add_topic(self, topic: Topic) -> None:
        """Register a topic before its first message."""
        topic_metadata = self._rosbag2.TopicMetadata(
            id=self._topics,
            name=topic.name,
            type=topic.type,
            serialization_format="cdr",
            offered_qos_profiles=[_qos_profile(self._rosbag2, topic)],
            type_description_hash=topic.hash(),
        )
        with _as_os_error():
            self._writer.create_topic(topic_metadata)
        self._topics += 1

    def write(self, topic: str, data: bytes, log_time_ns: int, publish_time_ns: int) -> None:
        """Append one CDR message; SequentialWriter takes one time and stores it as both."""
        with _as_os_error():
            self._writer.write(topic, data, log_time_ns)

    def close(self, custom_data: Mapping[str, str]) -> None:
        """Close the bag and add custom_data, which rosbag2 takes at opening, before the outcome is known.

        The copy of the metadata inside the MCAP file keeps those of the opening; rosbag2 reads metadata.yaml.
        """
        with _as_os_error():
            self._close_writer()
        for item in self._bag.iterdir():
            item.rename(self._folder / item.name)
        self._bag.rmdir()
        metadata.set_custom_data(self._folder, custom_data)

    def abort(self) -> None:
        """Let go of the file; the caller removes the folder."""
        with suppress(RuntimeError):
            self._close_writer()

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        # Releases before Iron bind no close(): there the destructor, due at this return, closes.
        if hasattr(writer, "close"):
            writer.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """rosbag2's exceptions reach Python as RuntimeError; for the recorder they are failed writes."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error).replace("\n", " ")) from error


def _qos_profile(rosbag2: Any, topic: Topic) -> Any:
    qos = rosbag2.QoS(topic.qos.depth)
    for policy in (topic.qos.reliability, topic.qos.durability, topic.qos.history):
        setter = getattr(qos, {"volatile": "durability_volatile"}.get(policy, policy), None)
        if setter:
            qos = setter(topic.qos.depth) if policy == "keep_last" else setter()
    return qos
