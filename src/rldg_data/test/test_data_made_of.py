"""What a dataset says of the cameras and grippers that its episodes were recorded with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from data_samples import make_task
from recipe_samples import record

from rldg_core.errors import UserError
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.reading import episode_info
from rldg_data.episodes import build
from rldg_data.episodes.build import build_episode
from rldg_data.recipe.plan import EpisodePlan


@pytest.mark.parametrize("gripper", [False, True])
def test_provenance_names_camera_view_and_gripper(tmp_path: Path, gripper: bool) -> None:
    bag = record(tmp_path, gripper=gripper)
    (part,) = json.loads(build_episode(EpisodePlan("train", (bag,))).metadata["provenance"])
    view = make_task().cameras["wrist"].view
    assert part["images"] == {"image": {"camera": "wrist", "view": view}} and part["gripper"] is gripper
    assert set(view) == {"width", "height", "crop", "image_size"}


def test_a_bag_of_an_older_recorder_names_its_camera_and_no_view(tmp_path: Path) -> None:
    info = episode_info(record(tmp_path))
    old = {key: value for key, value in info.to_custom_data().items() if key != "views"}
    assert EpisodeInfo.from_custom_data(old, "bag") == replace(info, views="")


def test_views_that_are_no_json_are_one_line(tmp_path: Path) -> None:
    info = replace(episode_info(record(tmp_path)), views="[1")
    with pytest.raises(UserError, match=r"bag: custom_data\.views: expected a JSON object"):
        build._seen_by([], "wrist", info, Path("bag"))
