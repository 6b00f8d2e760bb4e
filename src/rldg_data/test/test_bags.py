"""Bags: round trips, equality with bags of rosbag2, refusal of damaged and unrelated files, full disks."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader

from rldg_core.errors import UserError
from rldg_core.types import Source, Step
from rldg_data.bags.cdr import encode_step
from rldg_data.bags.metadata import Qos, Storage, Topic
from rldg_data.bags.reading import bag_info, content_blake3, episode_info, find_bags, read_episode
from rldg_data.bags.recording import EpisodeRecorder, write_episode
from rldg_data.bags.schemas import STEP_TYPE, schema_text, type_hash
from rldg_data.testing.steps import assert_same_steps, episodes, make_episode, make_task


@settings(max_examples=25, deadline=None)
@given(steps=episodes())
def test_steps_survive_a_round_trip(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_episode(Path(folder), steps, make_task())
        assert_same_steps(read_episode(path), steps)
        info = episode_info(path)
        assert (info.seed, info.instruction, info.steps) == (steps[0].seed, steps[0].instruction, len(steps) - 1)


def test_rosbags_reads_our_bag(tmp_path: Path) -> None:
    steps = make_episode(7)
    path = write_episode(tmp_path, steps, make_task())
    with AnyReader([path]) as reader:
        assert reader.message_count == 8
        connection = reader.connections[0]
        assert (connection.topic, connection.msgtype) == ("/rldg/step", STEP_TYPE)
        for step, (_, stamp, raw) in zip(steps, reader.messages(), strict=True):
            message = reader.deserialize(raw, STEP_TYPE)
            assert stamp == step.observation.stamp_ns
            assert message.observation.images[0].data.tobytes() == step.observation.images["wrist"]
            np.testing.assert_array_equal(message.action.executed, step.action.executed)


def test_bag_has_the_records_of_a_rosbag2_bag(tmp_path: Path) -> None:
    path = write_episode(tmp_path, make_episode(3), make_task())
    assert sorted(p.name for p in path.iterdir()) == ["episode_000000_0.mcap", "metadata.yaml"]
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert set(information) == {
        *("version", "storage_identifier", "duration", "starting_time", "message_count", "ros_distro"),
        *("topics_with_message_count", "compression_format", "compression_mode", "relative_file_paths", "files"),
        "custom_data",
    }
    assert information["version"] == 9
    assert information["duration"] == {"nanoseconds": 300_000_000}
    with (path / "episode_000000_0.mcap").open("rb") as stream:
        reader = make_reader(stream, validate_crcs=True)
        summary = reader.get_summary()
        assert summary is not None
        (schema,) = summary.schemas.values()
        (channel,) = summary.channels.values()
        opening, record = reader.iter_metadata()  # like rosbag2: one at opening, one at closing
        assert reader.get_header().profile == "ros2"
    assert (schema.name, schema.encoding) == (STEP_TYPE, "ros2msg")
    assert "MSG: sensor_msgs/CompressedImage" in schema.data.decode()
    assert channel.metadata["topic_type_hash"] == type_hash(STEP_TYPE)
    assert "reliability: reliable" in channel.metadata["offered_qos_profiles"]
    assert summary.chunk_indexes
    assert {c.compression for c in summary.chunk_indexes} == {"zstd"}
    assert {record.name, opening.name} == {"rosbag2"}
    assert yaml.safe_load(opening.metadata["serialized_metadata"])["custom_data"]["complete"] == "false"
    assert yaml.safe_load(record.metadata["serialized_metadata"]) == information


@pytest.mark.parametrize(
    ("storage", "files"),
    [
        (Storage(max_bagfile_duration=1), 3),
        (Storage("none", max_bagfile_size=30_000), 3),
        (Storage("zstd_small"), 1),
    ],
)
def test_split_bag_is_read_as_one(tmp_path: Path, storage: Storage, files: int) -> None:
    steps = make_episode(30)
    recorder = EpisodeRecorder(tmp_path, make_task(), storage=storage)
    noise = Topic("/noise", "std_msgs/msg/String", (Qos(depth=3),))
    for step in steps:
        path = recorder.add_step(encode_step(step))
        recorder.add_raw(noise, b"\0\1\0\0\2\0\0\0a\0", step.observation.stamp_ns + 1)
    assert path is not None
    information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    names = [f"episode_000000_{number}.mcap" for number in range(files)]
    assert information["relative_file_paths"] == [f["path"] for f in information["files"]] == names
    assert sorted(p.name for p in path.iterdir()) == [*names, "metadata.yaml"]
    assert sum(f["message_count"] for f in information["files"]) == information["message_count"] == 61
    starts = [f["starting_time"]["nanoseconds_since_epoch"] for f in information["files"]]
    assert starts == sorted(starts)
    assert starts[0] == information["starting_time"]["nanoseconds_since_epoch"] == steps[0].observation.stamp_ns
    assert_same_steps(read_episode(path), steps)
    # Every file is complete: header, schemas, channels, both metadata records, a summary with valid checksums.
    counts = []
    for name in names:
        with (path / name).open("rb") as stream:
            summary = make_reader(stream, validate_crcs=True).get_summary()
            assert summary is not None
            assert summary.statistics is not None
            assert len(list(make_reader(stream).iter_metadata())) == 2
            assert {c.topic for c in summary.channels.values()} == {"/rldg/step", "/noise"}
            counts.append(summary.statistics.message_count)
    assert counts == [f["message_count"] for f in information["files"]]
    with AnyReader([path]) as reader:
        assert reader.message_count == sum(1 for _ in reader.messages()) == 61
        assert reader.start_time == steps[0].observation.stamp_ns


def test_missing_file_of_a_split_bag_is_refused(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task(), storage=Storage(max_bagfile_duration=1))
    (path,) = filter(None, [recorder.add_step(encode_step(step)) for step in make_episode(30)])
    digest = content_blake3(path)
    file = bag_info(path).files[1]
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(UserError, match=f"^{file}: cannot read: No such file"):
        read_episode(path)
    file.write_bytes(content[:-1] + b"?")
    assert content_blake3(path) != digest


def test_records_are_in_the_order_of_rosbag2(tmp_path: Path) -> None:
    """Compare with rosbag2_cpp/test/rosbag2_cpp/bags/only_topics.mcap of ros2/rosbag2, which its recorder wrote."""
    path = write_episode(tmp_path, make_episode(3), make_task())
    with bag_info(path).file.open("rb") as stream:
        kinds = [type(record).__name__ for record in StreamReader(stream, emit_chunks=True).records]
    order = [kind for kind, _ in groupby(kinds)]
    assert order == [
        *("Header", "Metadata", "Chunk", "MessageIndex", "Metadata", "DataEnd", "Schema", "Channel", "Statistics"),
        *("ChunkIndex", "MetadataIndex", "SummaryOffset", "Footer"),
    ]
    assert (kinds.count("MetadataIndex"), kinds.count("SummaryOffset")) == (2, 5)


def test_type_hash_equals_the_one_computed_from_the_text() -> None:
    from rldg_data.bags.schemas import typestore

    assert typestore(STEP_TYPE, schema_text(STEP_TYPE)).hash_rihs01(STEP_TYPE) == type_hash(STEP_TYPE)


def test_custom_data_describe_the_episode(tmp_path: Path) -> None:
    task = make_task()
    steps = make_episode(5, source=Source.SCRIPTED, success=False)
    steps[2] = replace(steps[2], action=replace(steps[2].action, source=Source.POLICY))
    path = write_episode(tmp_path, steps, task, wall_time="2026-01-01T00:00:00+00:00")
    assert bag_info(path).custom_data == {
        "task": "insertion",
        "object": "usb_a",
        "success": "false",
        "source": "scripted",
        "policy_id": "specialist",
        "policy_version": "7",
        "config_hash": task.config_hash(),
        "episode_id": "run-0",
        "seed": "0",
        "instruction": "insert the usb_a plug",
        "steps": "5",
        "wall_time": "2026-01-01T00:00:00+00:00",
        "action_scale_m": "0.015",
        "action_scale_rad": "0.1",
        "rate_hz": "10.0",
        "views": '{"wrist": {"crop": null, "height": 480, "image_size": 256, "width": 640}}',
    }


def test_same_steps_give_the_same_bytes(tmp_path: Path) -> None:
    bags = [write_episode(tmp_path / name, make_episode(4), make_task(), wall_time="now") for name in "ab"]
    files = [sorted(p.read_bytes() for p in bag.iterdir()) for bag in bags]
    assert files[0] == files[1]


def test_bags_are_sorted_by_number_and_numbering_continues(tmp_path: Path) -> None:
    for number in (2, 10, 1_000_001):
        (tmp_path / f"episode_{number:06d}").mkdir()
    (tmp_path / ".episode_000003.0badf00d.partial").mkdir()
    (tmp_path / "notes").mkdir()
    assert [p.name for p in find_bags(tmp_path)] == ["episode_000002", "episode_000010", "episode_1000001"]
    assert write_episode(tmp_path, make_episode(), make_task()).name == "episode_1000002"


@pytest.fixture(scope="module")
def good_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episode(tmp_path_factory.mktemp("bags"), make_episode(30), make_task())


@settings(max_examples=60, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_bag_is_refused(good_bag: Path, fraction: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(shutil.copytree(good_bag, Path(folder) / good_bag.name))
        file = bag_info(bag).file
        os.truncate(file, int(file.stat().st_size * fraction))
        with pytest.raises(UserError, match=f"^{file}: truncated or corrupt"):
            read_episode(bag)


def read_or_message(bag: Path) -> tuple[list[Step], str]:
    try:
        return read_episode(bag), ""
    except UserError as error:
        return [], str(error)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_flipped_byte_is_refused_or_changes_no_step(good_bag: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(shutil.copytree(good_bag, Path(folder) / good_bag.name))
        file = bag_info(bag).file
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        steps, message = read_or_message(bag)
        if steps:
            assert_same_steps(steps, read_episode(good_bag))
        else:
            assert str(file) in message
            assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a bag: no metadata.yaml"),
        ("", "not the metadata of a rosbag2 bag"),
        ("a: [1", "not valid YAML"),
        ("rosbag2_bagfile_information: {version: 9}", "not the metadata of a rosbag2 bag"),
        ("rosbag2_bagfile_information: {storage_identifier: sqlite3}", "storage 'sqlite3', expected mcap"),
    ],
)
def test_unrelated_folder_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    bag = tmp_path / "episode_000000"
    bag.mkdir()
    if content is not None:
        (bag / "metadata.yaml").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_episode(bag)
    assert str(bag) in str(caught.value)


def test_bag_without_step_topic_is_refused(good_bag: Path, tmp_path: Path) -> None:
    bag = Path(shutil.copytree(good_bag, tmp_path / good_bag.name))
    text = (bag / "metadata.yaml").read_text().replace(STEP_TYPE, "std_msgs/msg/String")
    (bag / "metadata.yaml").write_text(text)
    with pytest.raises(UserError, match="0 topics of type rldg_msgs/msg/Step, expected 1; it holds std_msgs"):
        read_episode(bag)


def test_bag_without_custom_data_is_refused(good_bag: Path, tmp_path: Path) -> None:
    bag = Path(shutil.copytree(good_bag, tmp_path / good_bag.name))
    text = (bag / "metadata.yaml").read_text()
    (bag / "metadata.yaml").write_text(text.replace("source: policy", "sauce: policy"))
    with pytest.raises(UserError, match=r"custom_data\.source: missing"):
        episode_info(bag)


def test_incomplete_episode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a complete episode"):
        write_episode(tmp_path, make_episode()[:-1], make_task())
    assert list(tmp_path.iterdir()) == []
