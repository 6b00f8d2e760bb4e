"""The storage of an external bag and the encoding of its images do not change the Steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from rldg_core.image_codec import decode_jpeg
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Storage, StoredTopic, Topic
from rldg_data.bags.reading import read_episode
from rldg_data.external.importing import import_bag
from rldg_data.testing.external import (
    START_NS,
    STORE,
    Messages,
    mapping,
    observed,
    picture,
    raw_image,
    targets,
    trajectory,
    write_bag,
)
from rldg_data.testing.steps import assert_same_steps


def definition(type_name: str) -> str:
    return str(STORE.generate_msgdef(type_name, ros_version=2)[0])


def by_our_writer(storage: Storage) -> Callable[[Path, Messages], Path]:
    def write(path: Path, messages: Messages) -> Path:
        writer = McapWriter(path, path.name, storage, {})
        topics: set[str] = set()
        for topic, ns, message in sorted(messages, key=lambda m: m[1]):
            kind = message.__msgtype__
            if topic not in topics:
                given = StoredTopic(definition(kind), STORE.hash_rihs01(kind), "")
                writer.add_topic(Topic(topic, kind, given=given))
                topics.add(topic)
            writer.write(topic, bytes(STORE.serialize_cdr(message, kind)), ns, ns)
        writer.close({})
        return path

    return write


def by_rosbags(mode: CompressionMode) -> Callable[[Path, Messages], Path]:
    def write(path: Path, messages: Messages) -> Path:
        writer = Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3)
        writer.set_compression(mode, CompressionFormat.ZSTD)
        with writer:
            connections: dict[str, Any] = {}
            for topic, ns, message in sorted(messages, key=lambda m: m[1]):
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
                writer.write(connections[topic], ns, STORE.serialize_cdr(message, kind))
        return path

    return write


STORAGES: dict[str, Callable[[Path, Messages], Path]] = {
    "sqlite3": lambda path, messages: write_bag(path, messages, StoragePlugin.SQLITE3),
    "sqlite3, messages compressed": by_rosbags(CompressionMode.MESSAGE),
    "sqlite3, files compressed": by_rosbags(CompressionMode.FILE),
    "MCAP, zstd": by_our_writer(Storage("zstd_small")),
    "MCAP, plain": by_our_writer(Storage("none")),
    "MCAP, split": by_our_writer(Storage("none", max_bagfile_size=40_000)),
}


@pytest.mark.parametrize("name", STORAGES)
def test_storage_formats_give_the_same_steps(tmp_path: Path, name: str) -> None:
    poses, actions = trajectory()
    messages = observed(poses) + targets(poses, actions)
    (plain,) = import_bag(mapping(), write_bag(tmp_path / "plain" / "theirs", messages), tmp_path / "expected")
    bag = STORAGES[name](tmp_path / "stored" / "theirs", messages)
    if name.endswith("split"):
        assert len(list(bag.glob("*.mcap"))) > 2
    (result,) = import_bag(mapping(), bag, tmp_path / "out")
    assert_same_steps(read_episode(result.path), read_episode(plain.path))


def encoded(encoding: str, rgb: Any) -> Any:
    conversions = {"bgr8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGB2RGBA, "bgra8": cv2.COLOR_RGB2BGRA}
    return cv2.cvtColor(rgb, conversions[encoding]) if encoding in conversions else rgb


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_colour_encodings_give_the_same_steps(tmp_path: Path, encoding: str) -> None:
    poses, actions = trajectory()
    messages = [m for m in observed(poses) + targets(poses, actions) if m[0] != "/image"]
    frames = [m for m in observed(poses) if m[0] == "/image"]
    for k, (topic, ns, message) in enumerate(frames):
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert stamp_ns >= START_NS
        messages.append((topic, ns, raw_image(stamp_ns, encoded(encoding, picture(k)), encoding)))
    (result,) = import_bag(mapping(), write_bag(tmp_path / "theirs", messages), tmp_path / "out")
    for k, step in enumerate(read_episode(result.path)):
        image = decode_jpeg(step.observation.images["wrist"])
        assert np.abs(image.astype(int) - picture(k)).max() < 12
