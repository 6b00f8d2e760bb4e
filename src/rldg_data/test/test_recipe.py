"""Recipes: one line for every mistake, globs, filters on real bags, contents of a plan, bad bags."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rldg_core.errors import UserError
from rldg_core.types import Source, Step
from rldg_data.bags.reading import episode_info
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.build import build_episode
from rldg_data.plan import ImageFormat, Plan
from rldg_data.recipe.planning import make_plan
from rldg_data.recipe.recipe import Recipe, load_recipe, quick_recipe
from rldg_data.recipe.selecting import no_op_ratio
from rldg_data.testing.recipes import record
from rldg_data.testing.steps import make_episode, make_task


def plan(folder: Path, text: str, **options: Any) -> Plan:
    """Return the plan of a recipe in `folder`; name and version are added."""
    path = folder / "recipe.yaml"
    path.write_text(f"name: data\nversion: 1.2.3\n{text}\n")
    return make_plan(load_recipe(path), path.parent, **options)


def seeds(of: Plan, split: str = "train") -> list[int]:
    return [episode_info(e.bags[0]).seed for e in of.episodes if e.split == split]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: [{bags: b}]\nfoo: 1", "foo: Extra inputs are not permitted"),
        ("sources: []", "sources: Tuple should have at least 1 item after validation, not 0"),
        ("sources: [{}]", "sources.0: a source has either bags or stitch"),
        ("sources: [{bags: b, filter: {sucess: true}}]", "sources.0.filter.sucess: Extra inputs are not permitted"),
        ("sources: [{bags: b, filter: {source: robot}}]", "sources.0.filter.source.0: Input should be 'policy', "),
        ("sources: [{bags: b, filter: {steps: {min: 9, max: 2}}}]", "sources.0.filter.steps: min 9 exceeds max 2"),
        (
            "sources: [{bags: b, filter: {no_op_ratio: {max: 1.5}}}]",
            "sources.0.filter.no_op_ratio.max: Input should be",
        ),
        (
            "sources: [{bags: b, filter: {date: {min: soon}}}]",
            "sources.0.filter.date.min: Input should be a valid date",
        ),
        ("sources: [{bags: b, max_episodes: 0}]", "sources.0.max_episodes: Input should be greater than or equal to 1"),
        (
            "sources: [{bags: b, instruction: 'do {colour}'}]",
            "sources.0.instruction: 'do {colour}': expected only task",
        ),
        (
            "sources: [{bags: b}]\ninstruction: '{object.__class__}'",
            "instruction: '{object.__class__}': expected only task, object, recorded in braces",
        ),
        (
            "sources: [{bags: b}]\ninstruction: '{object:>99}'",
            "instruction: '{object:>99}': expected only task, object, recorded in braces",
        ),
        ("sources: [{bags: b}]\ninstruction: 'a { b'", "instruction: expected '}' before end of string"),
        ("sources: [{bags: b}]\ncameras: {front: front}", "cameras: no camera for the key 'image'"),
        (
            "sources: [{bags: b}]\ncameras: {image: wrist, state: front}",
            "cameras: 'state': reserved for the observation",
        ),
        ("sources: [{bags: b}]\nsplit: {}", "split: a split has either val_share or val_episodes"),
        ("sources: [{bags: b}]\nsplit: {val_share: 1.0}", "split.val_share: Input should be less than 1"),
        ("sources: [{bags: b}]\nimages: {size_px: 3}", "images.size_px: Input should be greater than or equal to 16"),
        ("sources: [{bags: b}]\nbalance: colour", "balance: Input should be 'object'"),
        ("sources: [{bags: b}]\nrelabel: {path: p}", "relabel.task: Field required"),
        (
            "sources: [{stitch: {first: {bags: a}, second: {bags: b}, tolerance_m: 0, tolerance_rad: 1}}]",
            "sources.0.stitch.tolerance_m: Input should be greater than 0",
        ),
        (
            "sources: [{stitch: {first: {bags: a}, second: {bags: b}, tolerance_m: 1, tolerance_rad: 1}, filter: {}}]",
            "sources.0: set the filters of a stitch in its first and second",
        ),
        ("sources: {", "line 4: not valid YAML: "),
    ],
)
def test_mistake_is_refused_with_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: Data\nsources: [{bags: b}]", "name: 'Data': expected lower-case letters"),
        ("name: ../up\nsources: [{bags: b}]", "name: '../up': expected lower-case letters"),
        ("name: a\nversion: '1.0'\nsources: [{bags: b}]", "version: '1.0': expected MAJOR.MINOR.PATCH"),
        ("name: a\nversion: 1.0\nsources: [{bags: b}]", "version: Input should be a valid string"),
        ("- a", "list, expected a mapping (a recipe file)"),
    ],
)
def test_invalid_names_and_versions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/r.yaml: {message}")
    with pytest.raises(UserError, match=r"none\.yaml: cannot read: No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_globs_find_bags_and_folders_of_bags_once(tmp_path: Path) -> None:
    for seed, run in enumerate(("a", "a", "b")):
        record(tmp_path / run / "bags", seed=seed)
    (tmp_path / "link").symlink_to(tmp_path / "a/bags")
    (tmp_path / "a/bags/notes.txt").write_text("no bag")
    assert sorted(seeds(plan(tmp_path, "sources: [{bags: '*/bags'}]"))) == [0, 1, 2]
    assert sorted(seeds(plan(tmp_path, "sources: [{bags: ['a/bags/episode_000001', '**/bags', link]}]"))) == [0, 1, 2]
    twice = plan(tmp_path, "sources: [{bags: a/bags}, {bags: '*/bags', instruction: other}]")
    assert sorted(seeds(twice)) == [0, 1, 2]
    assert twice.left_out == {"sources": 2}
    assert [e.instruction for e in twice.episodes if "b/bags" in e.name] == ["other"]
    for pattern, message in (("c", "'c': no such directory of bags"), ("a", "'a': no bags")):
        with pytest.raises(UserError, match=rf"recipe\.yaml: sources\.0\.bags: {message}"):
            plan(tmp_path, f"sources: [{{bags: {pattern}}}]")


def test_moved_runs_give_the_same_order_and_recipe(tmp_path: Path) -> None:
    for seed in range(6):
        record(tmp_path / "one/run/bags", seed=seed)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    plans = [plan(tmp_path / root, "sources: [{bags: run/bags}]\nsplit: {val_share: 0.2}") for root in ("one", "two")]
    assert seeds(plans[0]) == seeds(plans[1]) != sorted(seeds(plans[0]))
    assert seeds(plans[0], "val") == seeds(plans[1], "val")
    assert plans[0].recipe == plans[1].recipe
    assert "run" not in plans[0].recipe
    quick = [
        make_plan(quick_recipe([tmp_path / root / "run/bags"], "data"), Path("/")).recipe for root in ("one", "two")
    ]
    assert quick[0] == quick[1]


def still(steps: list[Step], share: float) -> list[Step]:
    """Return an episode whose first transitions do not move."""
    count = round(share * (len(steps) - 1))
    quiet = np.full(6, 1e-3, np.float32)
    return [replace(s, action=replace(s.action, executed=quiet)) if i < count else s for i, s in enumerate(steps)]


def test_filters_select_the_matching_bags(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    record(bags, seed=0)
    record(bags, seed=1, success=False)
    record(bags, seed=2, source=Source.HUMAN)
    record(bags, seed=3, transitions=9)
    record(bags, seed=4, object_name="hdmi")
    record(bags, seed=5, wall_time="2026-03-02T00:30:00+02:00")
    write_episode(bags, still(make_episode(10, seed=6), 0.6), make_task(), "2026-02-27")
    record(bags, seed=7, transitions=0)
    passes = {
        "{}": {0, 2, 3, 4, 5, 6},
        "{success: null}": {0, 1, 2, 3, 4, 5, 6},
        "{success: false}": {1},
        "{source: human}": {2},
        "{source: [policy, human], steps: {min: 9}}": {3, 6},
        "{steps: {max: 5}}": {0, 2, 4, 5},
        "{policy_id: specialist, policy_version: {min: 7, max: 7}}": {0, 2, 3, 4, 5, 6},
        "{policy_version: {max: 6}}": set(),
        "{policy_id: [a, b]}": set(),
        "{objects: hdmi}": {4},
        "{tasks: other}": set(),
        "{date: {min: 2026-03-01, max: 2026-03-01}}": {0, 2, 3, 4, 5},
        "{date: {max: 2026-02-28}}": {6},
        "{no_op_ratio: {max: 0.5}}": {0, 2, 3, 4, 5},
        "{no_op_ratio: {min: 0.6, max: 0.6}}": {6},
    }
    for text, expected in passes.items():
        if not expected:
            with pytest.raises(
                UserError, match=r"recipe\.yaml: none of 8 episodes passes the filters \(filter\.policy|filter\.t"
            ):
                plan(tmp_path, f"sources: [{{bags: bags, filter: {text}}}]")
            continue
        own = plan(tmp_path, f"sources: [{{bags: bags, filter: {text}}}]")
        assert set(seeds(own)) == expected, text
        assert sum(own.left_out.values()) == 8 - len(expected)
        assert seeds(plan(tmp_path, f"filter: {text}\nsources: [{{bags: bags}}]")) == seeds(own)
    write_episode(bags, make_episode(seed=8), make_task(), "yesterday")
    with pytest.raises(UserError, match=r"episode_000008: custom_data\.wall_time: 'yesterday' is not a time"):
        plan(tmp_path, "sources: [{bags: bags, filter: {date: {min: 2026-01-01}}}]")


def test_gripper_motion_is_not_a_no_op(tmp_path: Path) -> None:
    bag = record(tmp_path, gripper=True)
    steps = make_episode(4, gripper=True)
    grips = (1, 0, -1, 0.2)
    moved = [
        replace(s, action=replace(s.action, executed=np.array([0] * 6 + [g], np.float32)))
        for s, g in zip(steps[:-1], grips, strict=True)
    ]
    assert no_op_ratio([*moved, steps[-1]], episode_info(bag)) == 0.75


def test_plan_holds_all_that_a_worker_needs(tmp_path: Path) -> None:
    bag = record(tmp_path / "bags")
    (made,) = plan(
        tmp_path,
        "sources: [{bags: bags}]\ninstruction: '{task}: {recorded} ({object})'\nimages: {size_px: 224}\n"
        "cameras: {third: scene, image: wrist}",
    ).episodes
    assert made.instruction == "insertion: insert the usb_a plug (usb_a)"
    assert made.cameras == (("image", "wrist"), ("third", "scene"))
    assert made.images == ImageFormat(224, 95)
    assert made.num_bytes == (bag / "episode_000000_0.mcap").stat().st_size
    assert make_plan(Recipe(name="data", sources=({"bags": ("bags",)},)), tmp_path).episodes[0].bags == (bag,)


def test_bad_bags_stop_a_recipe_or_are_listed(tmp_path: Path) -> None:
    for seed in range(4):
        record(tmp_path / "bags", seed=seed)
    missing, cut = (tmp_path / f"bags/episode_00000{i}" for i in (1, 2))
    (missing / "metadata.yaml").unlink()
    (cut / "episode_000002_0.mcap").write_bytes(b"short")
    text = "sources: [{bags: bags, filter: {no_op_ratio: {max: 1}}}]"
    with pytest.raises(UserError, match="episode_000001"):
        plan(tmp_path, text)
    made = plan(tmp_path, text, skip_bad=True)
    assert sorted(seeds(made)) == [0, 3]
    assert [bag for bag, _ in made.bad] == [missing, cut]
    assert all(str(bag) in reason and "\n" not in reason for bag, reason in made.bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, executed=np.array([np.nan] * 6, np.float32)), "Step 2: an executed action is not finite"),
        (
            lambda s: replace(s, executed=np.zeros(3, np.float32)),
            "Step 2: executed action has 3 values, expected 6 or 7",
        ),
        (
            lambda s: replace(s, executed=np.zeros(7, np.float32)),
            "Step 2: executed action has 7 values, expected 6 or 7",
        ),
    ],
)
def test_implausible_actions_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    steps = make_episode()
    steps[2] = replace(steps[2], action=change(steps[2].action))
    assert refusal_of(tmp_path, steps) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"pose_base_tcp": np.full(7, 1e39)},
            "Step 2: pose_base_tcp: 1.732e+39 m from base, expected at most 2 m (positions in m?)",
        ),
        (
            {"twist_base_tcp": np.full(6, np.inf)},
            "Step 2: twist_base_tcp: [inf, inf, inf, inf, inf, inf], expected finite numbers",
        ),
        (
            {"wrench_tcp": np.full(6, -np.inf)},
            "Step 2: wrench_tcp: [-inf, -inf, -inf, -inf, -inf, -inf], expected finite numbers",
        ),
        ({"joint_positions": np.zeros(6)}, "Step 2: joint_positions: 6 values, expected 7"),
        (
            {"gripper_width_m": 2.875},
            "Step 2: gripper_width_m: 2.875 m, expected 0 to 0.2 m, or NaN if unknown",
        ),
        ({"images": {}}, "Step 2: no image of camera 'wrist'; the first Step has wrist"),
        ({"stamp_ns": 5}, "Step 2: its stamp does not increase"),
    ],
)
def test_implausible_observations_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    steps = make_episode()
    steps[2] = replace(steps[2], observation=replace(steps[2].observation, **change))
    assert refusal_of(tmp_path, steps) == message


def test_empty_instruction_is_refused(tmp_path: Path) -> None:
    assert (
        refusal_of(tmp_path, [replace(s, instruction=" ") for s in make_episode()]) == "instruction: must not be empty"
    )


def refusal_of(folder: Path, steps: list[Step]) -> str:
    """Return the error of build_episode for the bag, without the bag's name."""
    bag = write_episode(folder, steps, make_task())
    with pytest.raises(UserError) as caught:
        build_episode(make_plan(quick_recipe([folder], "data"), folder).episodes[0])
    assert str(caught.value).startswith(f"{bag}: ")
    return str(caught.value).removeprefix(f"{bag}: ")


def test_unknown_camera_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "bags")
    (made,) = plan(tmp_path, "sources: [{bags: bags}]\ncameras: {image: front}").episodes
    with pytest.raises(UserError, match="Step 0: no image of camera 'front'; the first Step has wrist"):
        build_episode(made)
