"""Recording without ROS: what becomes a bag, what is dropped, full disks."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_data.bags.cdr import encode_step
from rldg_data.bags.mcap_writer import McapWriter
from rldg_data.bags.metadata import Qos, Topic
from rldg_data.bags.reading import bag_info, find_bags, read_episode
from rldg_data.bags.recording import EpisodeRecorder
from rldg_data.testing.steps import assert_same_steps, make_episode, make_task

ENCODED = [[encode_step(step) for step in make_episode(3, seed=seed)] for seed in range(4)]


@settings(max_examples=60, deadline=None)
@given(lost=st.sets(st.integers(0, 15)), duplicate=st.none() | st.integers(0, 15))
def test_only_complete_episodes_become_bags(
    tmp_path_factory: pytest.TempPathFactory, lost: set[int], duplicate: int | None
) -> None:
    """Whichever Steps are lost or repeated: every bag is a complete episode, and every complete episode is a bag."""
    bag_dir = tmp_path_factory.mktemp("bags")
    recorder = EpisodeRecorder(bag_dir, make_task())
    stream = [(i // 4, i % 4) for i in range(16) for _ in range(2 if i == duplicate else 1) if i not in lost]
    for episode, index in stream:
        recorder.add_step(ENCODED[episode][index])
    recorder.abandon()
    # A repeated first Step opens the episode again; a repeated last Step is a stray one after a closed bag.
    complete = [
        e for e in range(4) if [i for n, i in stream if n == e] in ([0, 1, 2, 3], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3])
    ]
    assert [read_episode(bag)[0].seed for bag in find_bags(bag_dir)] == complete
    assert recorder.counters.closed == len(complete)
    assert len(list(bag_dir.iterdir())) == len(complete)


def test_full_disk_loses_one_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task())
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(McapWriter, "write", full)
        assert [recorder.add_step(data) for data in ENCODED[0]] == [None] * 4
    assert list(tmp_path.iterdir()) == []
    assert recorder.counters.failed == 1
    assert recorder.counters.last_error == f"{tmp_path}: cannot write: No space left on device"
    assert [recorder.add_step(data) for data in ENCODED[1]][-1] == tmp_path / "episode_000000"


def test_full_disk_at_closing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recorder = EpisodeRecorder(tmp_path, make_task())
    monkeypatch.setattr(os, "fsync", full)
    for data in ENCODED[0]:
        recorder.add_step(data)
    assert (recorder.counters.closed, recorder.counters.failed) == (0, 1)
    assert list(tmp_path.iterdir()) == []


def test_malformed_step_is_counted_and_recording_continues(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task())
    for data in [*ENCODED[0][:2], b"\0\1\0\0garbage", b"", *ENCODED[0][2:]]:
        recorder.add_step(data)
    assert (recorder.counters.closed, recorder.counters.ignored) == (1, 2)
    assert "malformed Step" in recorder.counters.last_error


def test_long_text_is_shortened_in_the_log(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task())
    long = "x" * 5_000_000
    for change in ({"task": long}, {"episode_id": long}):
        for step in make_episode(2):
            recorder.add_step(encode_step(replace(step, **change)))
    recorder.add_step(b"\0\1\0\0" + long.encode())
    assert (recorder.counters.failed, recorder.counters.closed, recorder.counters.ignored) == (1, 1, 4)
    assert len(recorder.counters.last_error) <= 1000


@pytest.mark.parametrize("stamp_ns", [-1_000_000_000, -(2**31) * 1_000_000_000])
def test_stamp_before_the_epoch_drops_its_episode(tmp_path: Path, stamp_ns: int) -> None:
    """MCAP has no negative times, and the recorder must survive them."""
    recorder = EpisodeRecorder(tmp_path, make_task())
    first = make_episode(3)
    first[2] = replace(first[2], observation=replace(first[2].observation, stamp_ns=stamp_ns))
    for step in (*first, *make_episode(3, seed=1)):
        recorder.add_step(encode_step(step))
    assert (recorder.counters.closed, recorder.counters.ignored) == (1, 2)
    (bag,) = find_bags(tmp_path)
    assert read_episode(bag)[0].seed == 1


def test_episode_of_another_task_is_refused(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task())
    for step in make_episode(3):
        recorder.add_step(encode_step(replace(step, task="assembly")))
    assert recorder.counters.failed == 1
    assert recorder.counters.last_error == "/rldg/step: episode of task 'assembly', recording 'insertion'"
    assert list(tmp_path.iterdir()) == []


def test_raw_messages_go_only_to_the_open_bag(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task())
    camera = Topic("/camera/info", "std_msgs/msg/String", (Qos(durability="transient_local"),))
    noise = Topic("/noise", "std_msgs/msg/String", (Qos(reliability="best_effort"),))
    payload = b"\0\1\0\0\2\0\0\0a\0"
    recorder.add_raw(camera, payload, 1)
    recorder.add_raw(noise, payload, 2)
    for number in range(2):
        recorder.add_step(ENCODED[number][0])
        recorder.add_raw(noise, payload, 10**18)
        for data in ENCODED[number][1:]:
            recorder.add_step(data)
    for number, bag in enumerate(find_bags(tmp_path)):
        counts = {name: count for name, (_, count) in bag_info(bag).topics.items()}
        assert counts == {"/rldg/step": 4, "/camera/info": 1, "/noise": 1}
        assert_same_steps(read_episode(bag), make_episode(3, seed=number))


def test_raw_messages_of_the_first_observation_are_recorded(tmp_path: Path) -> None:
    """The first Step arrives when its transition ends, one period after the frame of its observation."""
    recorder = EpisodeRecorder(tmp_path, make_task())
    start_ns = make_episode(3)[0].observation.stamp_ns
    noise = Topic("/noise", "std_msgs/msg/String", (Qos(durability="transient_local"),))
    payload = b"\0\1\0\0\2\0\0\0a\0"
    for number in range(-20, 4):
        recorder.add_raw(noise, payload, start_ns + number * 33_000_000)
    for data in ENCODED[0]:
        recorder.add_step(data, start_ns + 100_000_000)
    (bag,) = find_bags(tmp_path)
    assert bag_info(bag).topics["/noise"][1] == 4
    assert bag_info(bag).start_ns == start_ns
