"""A rosbag2 bag written without rosbag2: same file names, records and metadata (docs of formats: MCAP profile ros2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from mcap.writer import CompressionType, Writer

from rldg_data import metadata
from rldg_data.metadata import Topic
from rldg_data.schemas import schema_text, type_hash

PRESETS = {"none": CompressionType.NONE, "zstd_fast": CompressionType.ZSTD, "zstd_small": CompressionType.ZSTD}
"""rosbag2's storage presets that leave an index. This writer knows one zstd level; rosbag2 knows two."""


class McapWriter:
    """One bag of one file, `<folder>/<name>_0.mcap`. Nothing is a bag before `close` has returned."""

    def __init__(self, folder: Path, name: str, preset: str = "zstd_fast") -> None:
        self._folder = folder
        self._file_name = f"{name}_0.mcap"
        self._topics: dict[str, tuple[Topic, int]] = {}
        self._schemas: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._start_ns = self._end_ns = -1
        folder.mkdir(parents=True)
        self._file: IO[bytes] = (folder / self._file_name).open("wb")
        self._writer = Writer(self._file, compression=PRESETS[preset])
        self._writer.start(profile="ros2", library="rldg_data")

    def add_topic(self, topic: Topic) -> None:
        """Register a topic before its first message. Raises UserError when its type is not installed."""
        if topic.type not in self._schemas:
            text = schema_text(topic.type).encode()
            self._schemas[topic.type] = self._writer.register_schema(topic.type, "ros2msg", text)
        qos = {"offered_qos_profiles": topic.qos.to_yaml(), "topic_type_hash": type_hash(topic.type)}
        channel = self._writer.register_channel(topic.name, "cdr", self._schemas[topic.type], qos)
        self._topics[topic.name] = (topic, channel)

    def write(self, topic: str, data: bytes, log_time_ns: int, publish_time_ns: int) -> None:
        """Append one CDR message. Raises OSError when the disk is full."""
        self._writer.add_message(self._topics[topic][1], log_time_ns, data, publish_time_ns, self._counts[topic])
        self._counts[topic] += 1
        self._start_ns = log_time_ns if self._start_ns < 0 else min(self._start_ns, log_time_ns)
        self._end_ns = max(self._end_ns, log_time_ns)

    def close(self, custom_data: Mapping[str, str]) -> None:
        """Write index and metadata; the bag is complete afterwards."""
        topics = [(topic, self._counts[name]) for name, (topic, _) in self._topics.items()]
        start, end = max(self._start_ns, 0), max(self._end_ns, 0)
        info = metadata.information(self._file_name, topics, start, end, custom_data)
        self._writer.add_metadata("rosbag2", {"serialized_metadata": metadata.to_text(info)})
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.close()
        metadata.write(self._folder, info)

    def abort(self) -> None:
        """Let go of the file; the caller removes the folder."""
        try:
            self._file.close()
        except OSError:
            # A full disk fails once more when the buffer is flushed; the descriptor is closed all the same.
            return
