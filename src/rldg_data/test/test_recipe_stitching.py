"""Stitching: which bags are joined, and that the result is one valid episode."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.types import Source
from rldg_data.bags.reading import episode_info, read_episode
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.build import build_episode
from rldg_data.plan import Plan
from rldg_data.recipe.planning import StitchPoint, assign, joints_of, make_plan
from rldg_data.recipe.recipe import Stitch, load_recipe
from rldg_data.testing.recipes import line, record_line, with_poses
from rldg_data.testing.steps import make_episode, make_task

ENDS = {"first": {"bags": "a"}, "second": {"bags": "b"}, "tolerance_m": 0.02, "tolerance_rad": 0.1}


def plan(folder: Path, stitch: str = "", **more: str) -> Plan:
    keys = "".join(f"{key}: {value}\n" for key, value in more.items())
    first = "{bags: human, filter: {source: human}, uses: 2}"
    text = f"{{first: {first}, second: {{bags: rl}}, tolerance_m: 0.02, tolerance_rad: 0.1{stitch}}}"
    (folder / "r.yaml").write_text(f"name: assembly\n{keys}sources: [{{stitch: {text}}}]\n")
    return make_plan(load_recipe(folder / "r.yaml"), folder)


def test_human_grasp_and_rl_insertion_become_one_episode(tmp_path: Path) -> None:
    human = record_line(tmp_path / "human", 0.0, 0.2, transitions=6, seed=1, source=Source.HUMAN, gripper=True)
    rl = record_line(tmp_path / "rl", 0.21, 0.3, transitions=4, seed=2)
    (made,) = plan(tmp_path).episodes
    assert (made.bags, made.joints) == ((human, rl), (6,))
    episode = build_episode(made)
    grasp, insertion = read_episode(human), read_episode(rl)
    steps = [*grasp[:-1], *insertion]
    assert len(episode) == len(steps) == 11
    assert episode.images["image"] == [s.observation.images["wrist"] for s in steps]
    np.testing.assert_array_equal(episode.state[:, 0], [np.float32(s.observation.pose_base_tcp[0]) for s in steps])
    assert np.flatnonzero(episode.is_first).tolist() == [0]
    assert np.flatnonzero(episode.is_last).tolist() == np.flatnonzero(episode.is_terminal).tolist() == [10]
    # The grasp succeeded but not the whole episode: one reward, at the end.
    assert grasp[5].reward == 1.0
    assert episode.reward.tolist() == [0.0] * 9 + [1.0, 0.0]
    scale = np.array([0.015] * 3 + [0.1] * 3)
    executed = np.array([s.action.executed[:6] for s in steps[:-1]]) * scale
    np.testing.assert_allclose(episode.action[:-1, :6], executed, rtol=1e-6)
    grips = [(float(s.action.executed[6]) + 1) / 2 for s in grasp[:-1]]
    np.testing.assert_allclose(episode.action[:, 6], [*grips, *[0.0] * 5], rtol=1e-6)
    np.testing.assert_allclose(episode.timestamp_s, np.arange(11) * 0.1, rtol=1e-6)
    assert episode.instruction == grasp[0].instruction
    meta = episode.metadata
    assert (meta["episode_id"], meta["source"], meta["object"]) == ("run-1+run-2", "human+policy", "usb_a")
    assert (meta["policy_id"], meta["policy_version"], meta["success"]) == ("specialist", 7, True)
    parts = json.loads(meta["provenance"])
    assert [(p["episode_id"], p["steps"]) for p in parts] == [("run-1", 6), ("run-2", 4)]
    assert [p["source"] for p in parts] == ["human", "policy"]
    assert made.num_bytes == sum(b.joinpath(f"{b.name}_0.mcap").stat().st_size for b in (human, rl))


def test_demonstration_of_the_whole_task_is_cut_at_the_nearest_step(tmp_path: Path) -> None:
    record_line(tmp_path / "human", 0.0, 0.5, transitions=10, seed=1, source=Source.HUMAN)
    record_line(tmp_path / "rl", 0.21, 0.3, transitions=4, seed=2, success=False)
    record_line(tmp_path / "rl", 0.21, 0.3, transitions=4, seed=3)
    with pytest.raises(UserError, match=r"r\.yaml: none of 3 episodes .*filter\.success 1, stitch 2"):
        plan(tmp_path)
    (made,) = plan(tmp_path, ", cut: nearest").episodes
    assert made.joints == (4,)
    episode = build_episode(made)
    assert len(episode) == 4 + 5
    np.testing.assert_allclose(episode.state[3:5, 0], [0.15, 0.21], atol=1e-6)
    assert episode.reward.tolist() == [0.0] * 7 + [1.0, 0.0]
    assert made.num_bytes < sum(sum(f.stat().st_size for f in b.glob("*.mcap")) for b in made.bags)


def test_objects_tolerances_and_uses_limit_the_pairs(tmp_path: Path) -> None:
    for seed, (end, name) in enumerate([(0.2, "usb_a"), (0.2, "hdmi"), (0.5, "usb_a")]):
        record_line(tmp_path / "human", 0.0, end, seed=seed, source=Source.HUMAN, object_name=name)
    for seed, (start, name) in enumerate([(0.2, "usb_a"), (0.21, "usb_a"), (0.215, "usb_a"), (0.2, "hdmi")]):
        record_line(tmp_path / "rl", start, 0.3, seed=10 + seed, object_name=name)
    turned = with_poses(make_episode(seed=20, object_name="hdmi"), line(0.2, 0.3, 6))
    quaternion = np.array([np.cos(0.1), np.sin(0.1), 0, 0])  # rotated by 0.2 rad about z against the others
    turned = [
        replace(s, observation=replace(s.observation, pose_base_tcp=np.r_[s.observation.pose_base_tcp[:3], quaternion]))
        for s in turned
    ]
    write_episode(tmp_path / "rl", turned, make_task())
    made = plan(tmp_path)
    seeds = sorted(tuple(episode_info(bag).seed for bag in e.bags) for e in made.episodes)
    assert seeds == [(0, 10), (0, 11), (1, 13)]
    assert made.left_out == {"stitch": 3}
    assert len(plan(tmp_path, max_episodes="1").episodes) == 1


def test_pairs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for seed in range(6):
        record_line(tmp_path / "human", 0.0, 0.2, seed=seed, source=Source.HUMAN)
        record_line(tmp_path / "rl", 0.2 + seed / 1000, 0.3, seed=10 + seed)
    one, again, other = (plan(tmp_path, seed=seed) for seed in ("1", "1", "2"))
    assert one == again
    assert {e.bags for e in one.episodes} != {e.bags for e in other.episodes}
    both = plan(tmp_path, split="{val_episodes: 2}")
    sides = [{bag for e in both.episodes if e.split == s for bag in e.bags} for s in ("train", "val")]
    assert not sides[0] & sides[1]


@settings(max_examples=100, deadline=None)
@given(
    costs=st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    first_uses=st.integers(1, 3),
    second_uses=st.integers(1, 3),
)
def test_no_bag_is_used_more_often_than_allowed(costs: list[list[int]], first_uses: int, second_uses: int) -> None:
    joints = {
        i: sorted((StitchPoint(i, j, 1, c) for j, c in enumerate(row) if c < 3), key=lambda x: (x.cost, x.second))
        for i, row in enumerate(costs)
    }
    pairs = assign(joints, first_uses, second_uses)
    used = Counter(p.first for p in pairs), Counter(p.second for p in pairs)
    assert len({(p.first, p.second) for p in pairs}) == len(pairs)
    assert max(used[0].values(), default=0) <= first_uses
    assert max(used[1].values(), default=0) <= second_uses
    # No possible pair is left: a free first bag has no free partner.
    for i, offers in joints.items():
        free = [j for j in offers if used[1][j.second] < second_uses and j not in pairs]
        assert used[0][i] == first_uses or not free


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.sampled_from(["end", "nearest"]))
def test_joints_are_the_nearest_within_tolerance(seed: int, cut: str) -> None:
    rng = np.random.default_rng(seed)
    poses = np.column_stack([rng.uniform(0, 0.05, (8, 3)), rng.normal(0, 0.05, (8, 3)), np.ones(8)])
    starts = np.column_stack([rng.uniform(0, 0.05, (5, 3)), rng.normal(0, 0.05, (5, 3)), -np.ones(5)])
    stitch = Stitch.model_validate({**ENDS, "cut": cut})
    found = {j.second: j for j in joints_of(0, poses, range(5), starts, stitch)}

    def miss(step: int, other: int) -> float:
        a, b = poses[step], starts[other]
        cosine = abs(a[3:] @ b[3:]) / np.linalg.norm(a[3:]) / np.linalg.norm(b[3:])
        metres, radians = np.linalg.norm(a[:3] - b[:3]), 2 * np.arccos(min(1.0, cosine))
        return float(np.hypot(metres / 0.02, radians / 0.1)) if metres <= 0.02 and radians <= 0.1 else np.inf

    for other in range(5):
        costs = {step: miss(step, other) for step in ([7] if cut == "end" else range(1, 8))}
        if other in found:
            assert costs[found[other].index] == pytest.approx(min(costs.values()))
        else:
            assert min(costs.values()) == np.inf
