"""What a dataset states about the cameras and grippers of its episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rldg_core.errors import UserError
from rldg_core.task import RatesConfig
from rldg_data.bags.episode_info import EpisodeInfo
from rldg_data.bags.reading import episode_info
from rldg_data.bags.recording import write_episode
from rldg_data.episodes import build
from rldg_data.episodes.build import build_episode
from rldg_data.lerobot.export import export_plan as export_lerobot
from rldg_data.plan import EpisodePlan
from rldg_data.rlds.export import export_plan as export_rlds
from rldg_data.testing.lerobot import make_plan
from rldg_data.testing.recipes import record
from rldg_data.testing.steps import make_episode, make_task


@pytest.mark.parametrize("gripper", [False, True])
def test_provenance_names_camera_view_and_gripper(tmp_path: Path, gripper: bool) -> None:
    bag = record(tmp_path, gripper=gripper)
    (part,) = json.loads(build_episode(EpisodePlan("train", (bag,))).metadata["provenance"])
    view = make_task().cameras["wrist"].view
    assert part["images"] == {"image": {"camera": "wrist", "view": view}} and part["gripper"] is gripper
    assert set(view) == {"width", "height", "crop", "image_size"}


def test_bag_of_an_older_recorder_has_a_camera_and_no_view(tmp_path: Path) -> None:
    info = episode_info(record(tmp_path))
    old = {key: value for key, value in info.to_custom_data().items() if key != "views"}
    assert EpisodeInfo.from_custom_data(old, "bag") == replace(info, views="")


def test_views_that_are_not_json_are_refused(tmp_path: Path) -> None:
    info = replace(episode_info(record(tmp_path)), views="[1")
    with pytest.raises(UserError, match=r"bag: custom_data\.views: (not valid JSON|expected a JSON object)"):
        build._seen_by([], "wrist", info, Path("bag"))


def at_rate(folder: Path, rate_hz: float, seed: int, declared_hz: float = 0.0, camera: str = "wrist") -> Path:
    """Record a bag with stamps at rate_hz. declared_hz: rate in its metadata; 0: rate_hz."""
    steps = [
        replace(
            step,
            observation=replace(
                step.observation,
                stamp_ns=10**9 + round(step.index * 1e9 / rate_hz),
                images={camera: step.observation.images["wrist"]},
            ),
        )
        for step in make_episode(12, seed=seed)
    ]
    task = make_task().model_copy(update={"rates": RatesConfig(control_hz=declared_hz or rate_hz)})
    return write_episode(folder, steps, task, wall_time="now")


EXPORTS = [export_rlds, export_lerobot]


@pytest.mark.parametrize("export", EXPORTS)
def test_different_rates_are_refused(tmp_path: Path, export: Any) -> None:
    bags = [at_rate(tmp_path / "bags", 10, 1), at_rate(tmp_path / "bags", 30, 2)]
    with pytest.raises(UserError, match="30 steps per second, the first episode has 10") as caught:
        export(make_plan(bags), tmp_path / "datasets")
    assert str(caught.value).startswith(str(bags[1])) and "\n" not in str(caught.value)
    assert not list(tmp_path.glob("datasets/*/*"))
    result = export(make_plan(bags), tmp_path / "datasets", skip_bad=True)
    assert [bag for bag, _ in result.bad] == bags[1:]


@pytest.mark.parametrize("export", EXPORTS)
def test_different_cameras_under_one_key_are_refused(tmp_path: Path, export: Any) -> None:
    bags = [at_rate(tmp_path / "bags", 10, 1), at_rate(tmp_path / "bags", 10, 2, camera="side")]
    with pytest.raises(UserError, match="image 'image' is from camera 'side', in the first episode from 'wrist'"):
        export(make_plan(bags), tmp_path / "datasets")


@pytest.mark.parametrize("rate_hz", [3.3, 5.0, 8.5, 12.0, 30.0])
def test_stamps_contradicting_the_declared_rate_are_refused(tmp_path: Path, rate_hz: float) -> None:
    bag = at_rate(tmp_path, rate_hz, 1, declared_hz=10)
    with pytest.raises(UserError, match=f"{rate_hz:.3g} steps per second by its stamps, 10 Hz by its description"):
        build_episode(EpisodePlan("train", (bag,)))


def test_camera_of_another_rate_is_accepted(tmp_path: Path) -> None:
    """At 10 Hz, the newest frame of a 15 Hz camera is alternately 67 and 133 ms newer than the previous one."""
    steps = [
        replace(s, observation=replace(s.observation, stamp_ns=10**9 + int(s.index * 1.5) * 66_666_667))
        for s in make_episode(12)
    ]
    bag = write_episode(tmp_path, steps, make_task(), wall_time="now")
    assert json.loads(build_episode(EpisodePlan("train", (bag,))).metadata["provenance"])[0]["rate_hz"] == 10.0


@pytest.mark.parametrize("export", EXPORTS)
def test_report_states_rate_cameras_and_tasks(tmp_path: Path, export: Any) -> None:
    result = export(make_plan([at_rate(tmp_path / "bags", 20, 1)]), tmp_path / "datasets")
    report = json.loads((result.path / "export_report.json").read_text())
    assert (report["rate_hz"], report["cameras"], report["tasks"]) == (20.0, {"image": "wrist"}, ["insertion"])


def test_rate_of_a_bag_of_an_older_recorder_is_measured(tmp_path: Path) -> None:
    bag = at_rate(tmp_path, 20, 1)
    metadata = bag / "metadata.yaml"
    kept = [line for line in metadata.read_text().splitlines(keepends=True) if "rate_hz" not in line]
    metadata.write_text("".join(kept))
    assert episode_info(bag).rate_hz == 0
    assert json.loads(build_episode(EpisodePlan("train", (bag,))).metadata["provenance"])[0]["rate_hz"] == 20.0
