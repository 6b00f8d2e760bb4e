"""Repair of bags: readable content becomes a valid bag, and an incomplete episode never passes as complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader

from rldg_core.errors import UserError
from rldg_core.types import Step
from rldg_data.bags.cdr import encode_step
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Qos, Storage, StoredTopic, Topic
from rldg_data.bags.reading import UNFINISHED, bag_info, episode_info, read_episode, read_steps
from rldg_data.bags.recording import EpisodeRecorder, write_episode
from rldg_data.bags.repair import RepairResult, damaged_bags, is_sound, repair_bag, set_partials_aside
from rldg_data.testing.steps import assert_same_steps, make_episode, make_task

STEPS = make_episode(35)


@pytest.fixture(scope="module")
def good_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_episode(tmp_path_factory.mktemp("bags"), STEPS, make_task())


def copied(bag: Path, folder: str | Path) -> Path:
    return Path(shutil.copytree(bag, Path(folder) / bag.name))


def killed_recorder(bag_dir: Path, steps: list[Step], storage: Storage | None = None) -> EpisodeRecorder:
    """Return a recorder that stops without closing its bag. It cleans up when it is garbage-collected."""
    recorder = EpisodeRecorder(bag_dir, make_task(), storage=storage)
    for number, step in enumerate(steps):
        recorder.add_step(encode_step(step))
        noise = Topic("/noise", "std_msgs/msg/String", (Qos(reliability="best_effort"),))
        recorder.add_raw(noise, b"\0\1\0\0\2\0\0\0a\0", step.observation.stamp_ns + number)
    assert recorder._open
    recorder._open.writer.abort()
    return recorder


def repaired_or_message(bag: Path) -> tuple[RepairResult | None, str]:
    try:
        return repair_bag(bag), ""
    except UserError as error:
        return None, str(error)


def test_killed_recorder_loses_less_than_one_chunk(tmp_path: Path) -> None:
    killed = killed_recorder(tmp_path, STEPS[:27])
    (left,) = set_partials_aside(tmp_path)
    assert killed.counters.last_error == ""
    assert left.parent == tmp_path / UNFINISHED
    assert damaged_bags(tmp_path) == [left]
    repaired = repair_bag(left)
    # A chunk holds one second: at 10 Hz, two chunks of ten Steps are on disk.
    assert (repaired.steps, repaired.complete, repaired.lost_bytes) == (20, False, 0)
    assert_same_steps(read_steps(left), STEPS[:20])
    assert damaged_bags(tmp_path) == []
    with pytest.raises(UserError, match=r"incomplete episode \(its recorder was killed\)") as caught:
        read_episode(left)
    assert str(left) in str(caught.value)
    with pytest.raises(UserError, match="incomplete episode"):
        episode_info(left)
    data = bag_info(left).custom_data
    assert (data["complete"], data["steps"], data["success"], data["source"]) == ("false", "20", "false", "policy")
    with AnyReader([left]) as reader:
        assert reader.message_count == repaired.messages
        assert {c.topic for c in reader.connections} == {"/rldg/step", "/noise"}
        (noise,) = [c for c in reader.connections if c.topic == "/noise"]
        assert noise.ext.offered_qos_profiles[0].reliability.name == "BEST_EFFORT"


def test_bag_of_a_running_recorder_is_not_touched(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task())
    for step in STEPS[:25]:
        recorder.add_step(encode_step(step))
    assert set_partials_aside(tmp_path) == []
    (partial,) = tmp_path.iterdir()
    with pytest.raises(UserError, match="a recorder is writing it"):
        repair_bag(partial)
    for step in STEPS[25:]:
        recorder.add_step(encode_step(step))
    assert_same_steps(read_episode(tmp_path / "episode_000000"), STEPS)


def test_split_bag_of_a_killed_recorder_is_repaired(tmp_path: Path) -> None:
    killed = killed_recorder(tmp_path, STEPS[:27], Storage("none", max_bagfile_duration=1))
    (left,) = set_partials_aside(tmp_path)
    assert killed.counters.last_error == ""
    repaired = repair_bag(left)
    assert repaired.steps >= 20
    assert_same_steps(read_steps(left), STEPS[: repaired.steps])


def test_unclosed_bag_of_rosbag2_is_repaired(tmp_path: Path) -> None:
    """Repair a bag in its own subfolder, where rosbag2's writer keeps it until it is closed."""
    killed = killed_recorder(tmp_path, STEPS[:27])
    (left,) = set_partials_aside(tmp_path)
    (left / "episode_000000").mkdir()
    for file in left.glob("*.mcap"):
        file.rename(left / "episode_000000" / file.name)
    assert damaged_bags(tmp_path) == [left]
    assert repair_bag(left).steps == 20
    assert_same_steps(read_steps(left), STEPS[:20])
    assert killed.counters.failed == 0


def test_missing_metadata_or_index_is_restored_without_loss(good_bag: Path, tmp_path: Path) -> None:
    expected = bag_info(good_bag)
    for number, damage in enumerate(("metadata", "index")):
        bag = copied(good_bag, tmp_path / str(number))
        if damage == "metadata":
            (bag / "metadata.yaml").unlink()
        else:
            os.truncate(expected_file := bag / expected.file.name, expected_file.stat().st_size - 40)
        assert damaged_bags(bag) == damaged_bags(bag.parent) == [bag]
        repaired = repair_bag(bag)
        assert (repaired.complete, repaired.steps) == (True, len(STEPS))
        assert_same_steps(read_episode(bag), STEPS)
        assert episode_info(bag) == episode_info(good_bag)
        found = bag_info(bag)
        assert (found.topics, found.start_ns, found.duration_ns) == (
            expected.topics,
            expected.start_ns,
            expected.duration_ns,
        )
        assert is_sound(repaired.damaged) is False


def test_complete_episode_without_file_end_is_restored_as_complete(tmp_path: Path, good_bag: Path) -> None:
    """Repair a file cut off after the last Step: the metadata at its start describe the episode."""
    bag = copied(good_bag, tmp_path)
    (bag / "metadata.yaml").unlink()
    file = bag / f"{bag.name}_0.mcap"
    with file.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    os.truncate(file, summary.metadata_indexes[-1].offset)
    repaired = repair_bag(bag)
    assert (repaired.complete, repaired.steps) == (True, len(STEPS))
    wanted, got = episode_info(good_bag), episode_info(bag)
    assert (got.success, got.source, got.policy_id, got.steps) == (
        wanted.success,
        wanted.source,
        wanted.policy_id,
        wanted.steps,
    )
    assert got.action_scale_m == wanted.action_scale_m


def test_numeric_qos_of_older_ros_is_written_by_name(tmp_path: Path) -> None:
    """Repair a bag without Steps as recorded by Iron, where QoS policies are numbers."""
    qos_text = "- history: 3\n  depth: 0\n  reliability: 2\n  durability: 1\n  liveliness: 1\n"
    given_topic = StoredTopic("string data\n", "RIHS01_x", qos_text)
    writer = McapWriter(tmp_path / "talker", "talker", Storage(), {"operator": "somebody"})
    writer.add_topic(Topic("/chatter", "std_msgs/msg/String", given=given_topic))
    for number in range(5):
        writer.write("/chatter", b"\0\1\0\0\2\0\0\0a\0", number, number)
    writer.close({"operator": "somebody"})
    (tmp_path / "talker" / "metadata.yaml").unlink()
    repaired = repair_bag(tmp_path / "talker")
    assert (repaired.messages, repaired.steps, repaired.complete) == (5, 0, None)
    document = yaml.safe_load((tmp_path / "talker" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    (topic,) = document["topics_with_message_count"]
    (profile,) = topic["topic_metadata"]["offered_qos_profiles"]
    assert profile == {
        "history": "unknown",
        "depth": 0,
        "reliability": "best_effort",
        "durability": "transient_local",
        "liveliness": "automatic",
    }
    assert topic["topic_metadata"]["type_description_hash"] == "RIHS01_x"
    assert document["custom_data"] == {"operator": "somebody"}


@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_truncated_bag_is_repaired_or_refused(good_bag: Path, fraction: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = copied(good_bag, folder)
        file = bag_info(bag).file
        os.truncate(file, int(file.stat().st_size * fraction))
        before = sorted(p.name for p in bag.iterdir())
        repaired, message = repaired_or_message(bag)
        if repaired is None:
            assert str(bag) in message
            assert "\n" not in message
            assert sorted(p.name for p in bag.iterdir()) == before
            assert [p.name for p in Path(folder).iterdir()] == [bag.name]
            return
        assert is_sound(bag)
        assert_same_steps(read_steps(bag), STEPS[: repaired.steps])
        assert repaired.complete == (repaired.steps == len(STEPS))


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_flipped_byte_loses_at_most_one_chunk_or_the_tail(good_bag: Path, place: float, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = copied(good_bag, folder)
        file = bag_info(bag).file
        content = bytearray(file.read_bytes())
        content[int(len(content) * place)] ^= flip
        file.write_bytes(content)
        repaired, message = repaired_or_message(bag)
        assert "\n" not in message
        if repaired is None:
            return
        assert is_sound(bag)
        if repaired.complete:
            assert_same_steps(read_episode(bag), STEPS)
        elif repaired.complete is False:
            with pytest.raises(UserError, match="incomplete episode"):
                read_episode(bag)


def test_irreparable_bag_is_refused(tmp_path: Path, good_bag: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        damaged_bags(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no bag in it"):
        damaged_bags(tmp_path)
    bag = copied(good_bag, tmp_path)
    assert damaged_bags(tmp_path) == []
    file = bag_info(bag).file
    os.truncate(file, 100)
    with pytest.raises(UserError, match="nothing to restore: no complete chunk"):
        repair_bag(bag)
    file.write_bytes(b"text")
    with pytest.raises(UserError, match="not an MCAP file"):
        repair_bag(bag)
    (tmp_path / f".{bag.name}.damaged").mkdir()
    with pytest.raises(UserError, match="already exists: the original"):
        repair_bag(bag)
