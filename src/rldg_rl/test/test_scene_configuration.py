"""The scene of a task defines the configuration of its specialists; a learner file and its preset override it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rldg_core.errors import UserError
from rldg_core.scenes import SceneConfig
from rldg_core.task import Task, find_task
from rldg_rl import config as configuration

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"


class Marble(SceneConfig):
    specialist: ClassVar[Mapping[str, Any]] = {
        "preset": "connector",
        "features": {"position_scales_m": [0.2]},
        "agent": {"discount": 0.9},
    }
    kind: str = "marble"


class Broken(SceneConfig):
    specialist: ClassVar[Mapping[str, Any]] = {"features": {"position_scales": [0.2]}}
    kind: str = "broken"


class Plain(SceneConfig):
    kind: str = "plain"


@pytest.fixture
def insertion() -> Task:
    return find_task("insertion", [TASKS])


def with_scene(task: Task, scene: SceneConfig) -> Task:
    return task.model_copy(update={"scene": scene})


@pytest.mark.parametrize(
    ("name", "preset"),
    [("insertion", "connector"), ("insertion_franka", "connector"), ("pick_and_place", "tabletop")]
    + [(name, "tabletop") for name in ("fmb_insertion", "fmb_insertion_region", "fmb_assembly")],
)
def test_built_in_scenes_have_their_presets(name: str, preset: str) -> None:
    assert configuration.load(None, find_task(name, [TASKS])) == configuration.resolve(preset)


def test_scene_can_define_its_own_scales(insertion: Task, tmp_path: Path) -> None:
    task = with_scene(insertion, Marble())
    made, base = configuration.load(None, task), configuration.resolve("connector")
    assert made.features.position_scales_m == (0.2,) and made.agent.discount == 0.9
    assert made.network == base.network and made.features.crops == base.features.crops

    file = tmp_path / "learner.yaml"
    file.write_text("agent: {discount: 0.5}\n")
    made = configuration.load(file, task)
    assert made.agent.discount == 0.5 and made.features.position_scales_m == (0.2,)

    file.write_text("preset: tabletop\nagent: {discount: 0.5}\n")
    expected = configuration.resolve("tabletop", {"agent": {"discount": 0.5}})
    assert configuration.load(file, task) == expected, "a preset of the file replaces the values of the scene"

    assert configuration.load(None, with_scene(insertion, Plain())) == configuration.resolve("hil_serl")


def test_mistake_of_a_scene_is_reported_as_one(insertion: Task) -> None:
    with pytest.raises(UserError, match=r"^scene kind broken: specialist: features\.position_scales: Extra inputs"):
        configuration.load(None, with_scene(insertion, Broken()))
