"""`rldg bag info` and `rldg bag show`: the counts, and a picture of all parts of an episode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rldg_core.errors import UserError
from rldg_core.types import Source
from rldg_data.bags.metadata import Storage, Topic
from rldg_data.bags.recording import EpisodeRecorder, encode_step, write_episode
from rldg_data.bags.summary import draw_bag, draw_steps, summarize
from rldg_data.testing.steps import make_episode, make_task


def test_summary_counts_files_messages_and_rates(tmp_path: Path) -> None:
    recorder = EpisodeRecorder(tmp_path, make_task(), storage=Storage("none", max_bagfile_duration=1))
    path = None
    for step in make_episode(25):
        path = recorder.add_step(encode_step(step))
        if step.index == 3:
            recorder.add_raw(Topic("/once", "std_msgs/msg/String"), b"\0\1\0\0\2\0\0\0a\0", step.observation.stamp_ns)
    assert path is not None
    summary = summarize(path)
    assert (summary.files, summary.messages, summary.duration_s) == (3, 27, 2.5)
    assert summary.size_bytes == sum(f.stat().st_size for f in path.glob("*.mcap"))
    once, step_topic = summary.topics
    assert (step_topic.name, step_topic.messages, step_topic.rate_hz) == ("/rldg/step", 26, 10.0)
    assert once.messages == 1
    document = summary.to_json()
    assert [t["rate_hz"] for t in document["topics"]] == [None, 10.0]
    assert document["custom_data"]["object"] == "usb_a"
    next(path.glob("*_1.mcap")).unlink()
    with pytest.raises(UserError, match=r"_1.mcap: cannot read: No such file"):
        summarize(path)


@pytest.mark.parametrize("gripper", [False, True])
def test_picture_shows_every_part_of_the_episode(tmp_path: Path, gripper: bool) -> None:
    steps = make_episode(12, image_size=64, gripper=gripper)
    steps[4] = replace(steps[4], action=replace(steps[4].action, source=Source.HUMAN))
    path = write_episode(tmp_path, steps, make_task(gripper))
    draw_bag(path, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 1300
    assert 900 < pixels.shape[0] < 1500
    # The strip of images is the only part without white pixels.
    coloured = (pixels != 255).any(axis=2).mean(axis=1)
    assert (coloured > 0.85).sum() > 100


def test_unusual_episodes_are_drawn(tmp_path: Path) -> None:
    (only,) = make_episode(0)
    two = {"wrist": only.observation.images["wrist"], "side": only.observation.images["wrist"]}
    draw_steps([only], "one Step", tmp_path / "one.png")
    steps = [replace(s, observation=replace(s.observation, images=two)) for s in make_episode(3, gripper=True)]
    nothing = np.full(6, np.nan)
    steps[1] = replace(steps[1], observation=replace(steps[1].observation, wrench_tcp=nothing))
    steps[2] = replace(steps[2], action=replace(steps[2].action, executed=np.zeros(6, np.float32)))
    draw_steps(steps[1:], "a part, two cameras", tmp_path / "two.png")
    heights = [Image.open(tmp_path / f"{name}.png").size[1] for name in ("one", "two")]
    assert heights[1] > heights[0] + 100


def test_bag_with_an_unreadable_image_is_refused(tmp_path: Path) -> None:
    steps = make_episode(2)
    steps[1] = replace(steps[1], observation=replace(steps[1].observation, images={"wrist": b"no image"}))
    path = write_episode(tmp_path, steps, make_task())
    with pytest.raises(UserError, match="Step 1: camera 'wrist': 8 bytes, neither a JPEG"):
        draw_bag(path, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nanoseconds_since_epoch: 17", "nanoseconds_since_epoch: 9999999999999999999917"),
        ("nanoseconds_since_epoch: 17", "nanoseconds_since_epoch: -99999999999917"),
        ("message_count: 6", "message_count: -5"),
        ("message_count: 6", f"message_count: {'9' * 90}"),
    ],
)
def test_implausible_number_in_metadata_is_refused(tmp_path: Path, old: str, new: str) -> None:
    bag = write_episode(tmp_path, make_episode(5), make_task(), wall_time="now")
    file = bag / "metadata.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(
        UserError, match=r"not the metadata of a rosbag2 bag: ValueError .*, expected a number from"
    ) as caught:
        summarize(bag)
    assert "\n" not in str(caught.value)
