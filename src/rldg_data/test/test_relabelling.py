"""Relabelling: which actions are replaced, what the policy sees, what the new bags and datasets state."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rldg_core import registry
from rldg_core.errors import UserError
from rldg_core.types import Source, Step
from rldg_data.bags.reading import content_blake3, episode_info, find_bags, read_episode
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.build import build_episode
from rldg_data.plan import EpisodePlan, Plan, Relabel
from rldg_data.recipe.planning import make_plan
from rldg_data.recipe.recipe import load_recipe
from rldg_data.relabelling import load_relabeller, relabel_bags
from rldg_data.testing.recipes import CountingPolicy, counting_policy_factory, record, record_line
from rldg_data.testing.steps import assert_same_steps, make_episode, make_task

Log = list[tuple[str, int]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Install the back-end `remembering` and return the log of its calls."""
    calls: Log = []
    monkeypatch.setattr(registry, "backends", lambda: ["remembering"])
    monkeypatch.setattr(registry, "factory", lambda _: counting_policy_factory(calls))
    load_relabeller.cache_clear()
    return calls


def task_file(folder: Path, **changes: Any) -> Path:
    data = {**make_task().model_dump(mode="json"), **changes}
    path = folder / "insertion.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def config(folder: Path, **changes: Any) -> Relabel:
    task = str(task_file(folder, **changes))
    return Relabel("remembering", None, task, policy_id="expert", checkpoint_sha256="abc")


def mixed(folder: Path) -> tuple[Path, list[Step]]:
    """Record a bag in which a person acts at Steps 1 and 2."""
    steps = make_episode(5, seed=4)
    human = [
        replace(s, action=replace(s.action, source=Source.HUMAN, policy_id="")) if s.index in (1, 2) else s
        for s in steps
    ]
    # Inside the safety box, so that no action of the policy is clipped.
    place = np.array(make_task().target_pose_base_tcp)
    human = [replace(s, observation=replace(s.observation, pose_base_tcp=place)) for s in human]
    return write_episode(folder, human, make_task(), "2026-03-01"), human


def test_only_named_sources_change_and_the_policy_sees_every_observation(tmp_path: Path, log: Log) -> None:
    bag, steps = mixed(tmp_path / "bags")
    relabeller = load_relabeller(config(tmp_path))
    relabelled, count = relabeller.relabel(steps, episode_info(bag), bag)
    assert count == 2
    for step, new in zip(steps, relabelled, strict=True):
        if step.index not in (1, 2):
            assert new == step
            continue
        # The policy counts observations: it saw all earlier ones; the first action of its chunk is taken.
        np.testing.assert_allclose(new.action.executed, np.full(6, (step.index + 1) / 10), rtol=1e-6)
        np.testing.assert_array_equal(new.action.requested, new.action.executed)
        assert (new.action.policy_id, new.action.policy_version) == ("expert", 12)
        assert (new.action.source, new.action.observation_stamp_ns) == (Source.HUMAN, step.observation.stamp_ns)
        assert replace(new, action=step.action) == step
    twice, _ = relabeller.relabel(steps, episode_info(bag), bag)
    assert_same_steps(relabelled, twice)
    resets = [call for call in log if call[0] != "warm_up"]
    assert resets == [(steps[0].instruction, steps[0].seed)] * 2


def test_bag_without_the_named_sources_is_unchanged(tmp_path: Path, log: Log) -> None:
    bag = record(tmp_path / "bags", source=Source.SCRIPTED)
    steps = read_episode(bag)
    relabelled, count = load_relabeller(config(tmp_path)).relabel(steps, episode_info(bag), bag)
    assert (relabelled, count) == (steps, 0)
    assert [call for call in log if call[0] != "warm_up"] == []


def test_action_that_the_gate_would_clip_is_clipped(tmp_path: Path, log: Log) -> None:
    """1 cm from the edge of the safety box, a policy that commands 1.5 cm or more gets 1 cm."""
    steps = make_episode(3, source=Source.HUMAN)
    place = np.array(make_task().target_pose_base_tcp)
    place[0] += 0.0995
    steps = [replace(s, observation=replace(s.observation, pose_base_tcp=place)) for s in steps]
    bag = write_episode(tmp_path / "bags", steps, make_task())
    (first, *_), _ = load_relabeller(config(tmp_path)).relabel(steps, episode_info(bag), bag)
    # The tool points down (rotated by pi about x): x of the tool is x of the base.
    assert first.action.executed[0] == pytest.approx(0.0005 / 0.015, abs=1e-4)
    assert first.action.requested[0] == np.float32(0.1)
    assert first.action.box_clipped and not first.action.action_clipped


def test_relabelled_bags_hold_the_same_steps_and_name_the_policy(tmp_path: Path, log: Log) -> None:
    bag, steps = mixed(tmp_path / "bags")
    untouched = record(tmp_path / "bags", seed=9)
    done: list[tuple[int, int]] = []
    result = relabel_bags([bag, untouched], tmp_path / "out", config(tmp_path), progress=lambda *x: done.append(x))
    assert (result.episodes, result.steps, result.bad, done[-1]) == (2, 2, (), (2, 2))
    new, same = find_bags(tmp_path / "out")
    assert_same_steps(read_episode(same), read_episode(untouched))
    assert episode_info(same) == episode_info(untouched)
    relabelled, _ = load_relabeller(config(tmp_path)).relabel(steps, episode_info(bag), bag)
    assert_same_steps(read_episode(new), relabelled)
    info = episode_info(new)
    by = json.loads(info.relabelled_by)
    assert replace(info, relabelled_by="", policy_version=7, policy_id="specialist") == episode_info(bag)
    # The last policy action is an original one: the bag still names the specialist, and the expert for its human part.
    assert by == {
        "backend": "remembering",
        "bag_blake3": content_blake3(bag),
        "checkpoint_sha256": "abc",
        "policy_id": "expert",
        "policy_version": 12,
        "sources": ["human"],
        "task": "insertion",
    }
    (part,) = json.loads(build_episode(EpisodePlan("train", (new,))).metadata["provenance"])
    assert part["relabelled_by"] == by
    with pytest.raises(UserError, match="already has bags"):
        relabel_bags([bag], tmp_path / "out", config(tmp_path))


def plan(folder: Path, **relabel: Any) -> Plan:
    text = json.dumps({"backend": "remembering", "task": "insertion", **relabel})
    (folder / "r.yaml").write_text(f"name: data\nsources: [{{bags: bags, relabel: {text}}}]\n")
    return make_plan(load_recipe(folder / "r.yaml"), folder, task_dirs=[folder])


def test_recipe_that_relabels_equals_a_recipe_of_relabelled_bags(tmp_path: Path, log: Log) -> None:
    mixed(tmp_path / "bags")
    task_file(tmp_path)
    (made,) = plan(tmp_path, policy_id="expert").episodes
    assert made.relabel is not None
    episode = build_episode(made)
    relabel_bags([made.bags[0]], tmp_path / "out", made.relabel)
    other = build_episode(EpisodePlan("train", (tmp_path / "out/episode_000000",)))
    np.testing.assert_array_equal(episode.action, other.action)
    np.testing.assert_allclose(episode.action[1, :3], 0.2 * 0.015, rtol=1e-6)
    (part,) = json.loads(episode.metadata["provenance"])
    assert part["relabelled_by"]["policy_id"] == "expert"
    assert part["blake3"] == content_blake3(made.bags[0])
    assert "relabelled_by" not in json.loads(build_episode(replace(made, relabel=None)).metadata["provenance"])[0]


def test_human_part_of_a_stitched_episode_is_relabelled(tmp_path: Path, log: Log) -> None:
    human = record_line(tmp_path / "a", 0.45, 0.5, transitions=4, seed=1, source=Source.HUMAN)
    rl = record_line(tmp_path / "b", 0.5, 0.5, transitions=3, seed=2)
    relabel = config(tmp_path, safety_box={"low": [-1.0] * 6, "high": [1.0] * 6})
    made = EpisodePlan("train", (human, rl), relabel=relabel, joints=(3,))
    episode, plain = build_episode(made), build_episode(replace(made, relabel=None))
    np.testing.assert_allclose(episode.action[:3, 0], [0.0015, 0.003, 0.0045], rtol=1e-5)
    np.testing.assert_array_equal(episode.action[3:], plain.action[3:])
    parts = json.loads(episode.metadata["provenance"])
    assert ["relabelled_by" in part for part in parts] == [True, False]


def test_another_checkpoint_gives_another_plan(tmp_path: Path, log: Log) -> None:
    mixed(tmp_path / "bags")
    task_file(tmp_path)
    (tmp_path / "specialist").mkdir()
    (tmp_path / "specialist/weights").write_text("1")
    before = plan(tmp_path, path="specialist")
    assert plan(tmp_path, path="specialist").sha256() == before.sha256()
    (tmp_path / "specialist/weights").write_text("2")
    assert plan(tmp_path, path="specialist").sha256() != before.sha256()


@pytest.mark.parametrize(
    ("relabel", "message"),
    [
        ({"backend": "octopus"}, "relabel.backend: 'octopus': expected one of remembering"),
        ({"task": "dance"}, "relabel.task: unknown task 'dance', expected one of insertion"),
        ({"task": "insertion:vga"}, "relabel.task: .*default_object 'vga' is not among"),
        ({"path": "nowhere"}, "relabel.path: .*/nowhere: cannot read: No such file or directory"),
    ],
)
def test_invalid_relabelling_is_refused_before_reading(
    tmp_path: Path, log: Log, relabel: dict[str, str], message: str
) -> None:
    mixed(tmp_path / "bags")
    task_file(tmp_path)
    with pytest.raises(UserError, match=message):
        plan(tmp_path, **relabel)
    assert log == []


def test_unsuitable_policy_is_refused(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    bag, steps = mixed(tmp_path / "bags")
    info = episode_info(bag)
    with pytest.raises(UserError, match=r"in units of 0\.015 m, 0\.1 rad; task insertion .* has 0\.02 m"):
        load_relabeller(config(tmp_path, action={"scale_m": 0.02})).relabel(steps, info, bag)
    load_relabeller.cache_clear()
    with pytest.raises(UserError, match="Step 1: 6 values were executed, policy expert gives 7"):
        load_relabeller(config(tmp_path, action={"gripper": True})).relabel(steps, info, bag)
    load_relabeller.cache_clear()
    relabeller = load_relabeller(config(tmp_path))
    monkeypatch.setattr(CountingPolicy, "act", lambda *_: np.full((3, 6), np.nan))
    with pytest.raises(UserError, match="Step 0: expert: ValueError: action chunk holds a value that is not finite"):
        relabeller.relabel(steps, info, bag)
    with pytest.raises(UserError, match=r"out: no bag was written: .*not finite"):
        relabel_bags([bag], tmp_path / "out", config(tmp_path), skip_bad=True)
