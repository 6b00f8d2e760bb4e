"""The dataset card states what the dataset holds, its pictures show it, and the dataset itself does not change."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rldg_core.errors import UserError
from rldg_core.types import Source
from rldg_data.bags.reading import find_bags
from rldg_data.bags.recording import write_episode
from rldg_data.card import card, survey, write_card
from rldg_data.lint import lint
from rldg_data.plan import EpisodePlan, Plan
from rldg_data.rlds import read_dataset
from rldg_data.rlds.export import export_plan
from rldg_data.testing.steps import make_episode, make_task

PICTURES = ("card_actions.png", "card_frames.png", "card_lengths.png")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export 7 episodes of two objects and two sources; the last two are in val."""
    root = tmp_path_factory.mktemp("card")
    for number in range(7):
        steps = make_episode(
            4 + number,
            seed=100 * number,
            object_name=("usb_a", "hdmi")[number % 2],
            source=(Source.POLICY, Source.HUMAN)[number >= 4],
            success=number != 3,
            image_size=64,
        )
        write_episode(root / "run" / "bags", steps, make_task(), wall_time="now")
    texts = ["a | b # <b>", *[""] * 6]
    plans = [
        EpisodePlan("val" if number >= 5 else "train", (bag,), texts[number], num_bytes=1)
        for number, bag in enumerate(find_bags(root / "run" / "bags"))
    ]
    return export_plan(Plan("plugs", "1.2.0", tuple(plans)), root / "data").path


@pytest.fixture
def dataset(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "plugs" / "1.2.0"))


def rows(text: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose first column is called `head`."""
    (start,) = re.finditer(rf"^\| {re.escape(head)} \|.*\n\| ---.*\n", text, re.MULTILINE)
    lines = text[start.end() :].splitlines()
    table = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]


def test_card_states_counts_and_statistics(dataset: Path) -> None:
    before = {path.name: path.read_bytes() for path in dataset.iterdir()}
    text = write_card(dataset).read_text()
    assert rows(text, "object") == [["hdmi", "2", "1", "3"], ["usb_a", "3", "1", "4"], ["all", "5", "2", "7"]]
    assert rows(text, "source") == [["human", "1", "2", "3"], ["policy", "4", "0", "4"], ["all", "5", "2", "7"]]
    assert rows(text, "task") == [["insertion", "5", "2", "7"]]
    assert rows(text, "policy") == [["specialist", "7", "7"]]
    assert rows(text, "recorded in") == [["run/bags", "7"]]
    assert ["a \\| b # &lt;b>", "1"] in rows(text, "instruction")
    transitions = sum(range(4, 11))
    assert f"7 episodes, {transitions} transitions ({transitions / 600:.1f} minutes at 10 Hz)" in text
    assert "Successful: 6 of 7." in text
    action = json.loads(before["dataset_statistics.json"])["action"]
    named = [f"{action[key][0]:.4g}" for key in ("mean", "std", "min", "q01", "q99", "max")]
    assert rows(text, "action")[0] == ["dx [m]", *named]
    assert len(rows(text, "state")) == 8
    assert all(f"]({name})" in text for name in PICTURES)
    # The other files are unchanged, and the dataset is still valid.
    after = {path.name: path.read_bytes() for path in dataset.iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"README.md", *PICTURES}
    assert list(lint(dataset)) == []


def test_writing_the_card_twice_gives_the_same_bytes(dataset: Path) -> None:
    first = write_card(dataset).read_bytes()
    assert write_card(dataset).read_bytes() == first


def test_pictures_show_all_episodes(dataset: Path) -> None:
    write_card(dataset)
    images = {name: np.asarray(Image.open(dataset / name).convert("RGB"), np.float64) for name in PICTURES}
    assert all(image.std() > 10 for image in images.values())
    height, width = images["card_frames.png"].shape[:2]
    assert width == 7 * 164 - 4 and height == 6 * (160 + 24)  # six episodes, seven frames of each


def test_survey_counts_every_transition(dataset: Path) -> None:
    source = read_dataset(dataset)
    seen = survey(source)
    episodes = [e for split in source.splits for e in source.episodes(split)]
    assert seen.lengths == [len(e) - 1 for e in episodes]
    assert (seen.histogram.sum(axis=1) == seen.transitions).all()
    actions = np.concatenate([e.action[:-1] for e in episodes])
    counts, _ = np.histogram(actions[:, 2], seen.edges[2])
    assert np.abs(seen.histogram[2] - counts).sum() <= 2 * sum(len(e) - 1 for e in source.episodes("val"))
    assert seen.histogram[6].max() == seen.transitions  # no gripper: constant
    assert [title.split(":")[0] for title, _ in seen.samples] == ["train"] * 4 + ["val"] * 2
    assert all(files[0] and len(files) == 7 for _, files in seen.samples)


def test_many_policy_versions_are_summarised(dataset: Path) -> None:
    source = read_dataset(dataset)
    seen = survey(source)
    seen.policies.clear()
    seen.policies.update({("specialist", version): 1 for version in range(30)})
    listed = rows(card(source, seen), "policy")
    assert len(listed) == 12
    assert listed[-1] == ["19 others", "", "19"]


@pytest.mark.parametrize("broken", ["nothing", "no statistics", "cut off"])
def test_unreadable_dataset_is_refused(dataset: Path, broken: str) -> None:
    if broken == "nothing":
        shutil.rmtree(dataset)
        dataset.mkdir()
    elif broken == "no statistics":
        (dataset / "dataset_statistics.json").write_text("{}")
    else:
        shard = next(dataset.glob("*.tfrecord-*"))
        shard.write_bytes(shard.read_bytes()[:-10])
    before: Any = sorted(dataset.iterdir())
    with pytest.raises(UserError, match=str(dataset)) as refused:
        write_card(dataset)
    assert "\n" not in str(refused.value)
    assert sorted(dataset.iterdir()) == before
