"""A rosbag2 bag written without rosbag2: same file names, records and metadata (docs of formats: MCAP profile ros2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rldg_data.bags import metadata
from rldg_data.bags.mcap_file import PRESETS, McapFile
from rldg_data.bags.metadata import FileInfo, Storage, Topic


class McapWriter:
    """One bag, `<folder>/<name>_0.mcap` and, when split, `_1`, `_2` ... Nothing is a bag before `close` has returned.

    A file begins and ends with the metadata known then, as rosbag2 writes it; `custom_data` are those of the beginning.
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
        """Let go of the file; the caller removes the folder."""
        self._file.abort()

    def _is_full(self, duration_ns: int) -> bool:
        """rosbag2's rule: looked at before a message is written."""
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
