"""Properties for every set of bags: caps, balance, splits, repeatability, independence of the order of a listing."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_data.plan import Plan
from rldg_data.recipe import planning
from rldg_data.recipe.planning import hold_out, make_plan, val_targets
from rldg_data.recipe.recipe import Recipe, load_recipe
from rldg_data.recipe.selecting import RecordedBag
from rldg_data.testing.recipes import record, recorded_sets

options = st.fixed_dictionaries(
    {},
    optional={
        "max_episodes": st.integers(1, 12),
        "max_episodes_per_object": st.integers(1, 5),
        "max_steps": st.integers(1, 40),
        "balance": st.just("object"),
        "seed": st.integers(0, 3),
        "split": st.one_of(
            st.builds(lambda x: {"val_share": x}, st.floats(0.05, 0.5)),
            st.builds(lambda n: {"val_episodes": n}, st.integers(1, 6)),
        ),
    },
)


def planned(bags: list[RecordedBag], keys: dict[str, Any]) -> Plan:
    """Return the plan of a recipe whose only source is these synthetic bags, in the order given."""
    recipe = validated(Recipe, {"name": "data", "sources": [{"bags": "*"}], **keys}, "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "expand", lambda *_: [])
        patch.setattr(planning, "read_all", lambda *_: list(bags))
        return make_plan(recipe, Path("/"))


@settings(max_examples=150, deadline=None)
@given(bags=recorded_sets(), keys=options, data=st.data())
def test_plan_satisfies_its_recipe(bags: list[RecordedBag], keys: dict[str, Any], data: st.DataObject) -> None:
    try:
        plan = planned(bags, keys)
    except UserError:
        assume(False)
    info = {bag.path: bag.info for bag in bags}
    chosen = [info[episode.bags[0]] for episode in plan.episodes]
    per_object = Counter(i.object for i in chosen)
    assert all(i.success and i.steps >= 1 for i in chosen)
    assert len(chosen) + sum(plan.left_out.values()) == len(bags)
    assert len(chosen) <= keys.get("max_episodes", len(bags))
    assert sum(i.steps for i in chosen) <= keys.get("max_steps", 1000)
    assert max(per_object.values()) <= keys.get("max_episodes_per_object", len(bags))
    if "balance" in keys:
        wanted = {i.object for i in info.values() if i.success and i.steps >= 1}
        assert set(per_object) == wanted
        assert len(set(per_object.values())) == 1
    by_split = {s: [info[e.bags[0]] for e in plan.episodes if e.split == s] for s in ("train", "val")}
    if "split" in keys:
        assert {i.object for i in by_split["val"]} == {i.object for i in by_split["train"]} == set(per_object)
        assert not {i.episode_id for i in by_split["val"]} & {i.episode_id for i in by_split["train"]}
    else:
        assert not by_split["val"]
    assert [e.split for e in plan.episodes] == sorted(e.split for e in plan.episodes)
    again = planned(data.draw(st.permutations(bags)), keys)
    assert again == plan
    assert again.sha256() == plan.sha256()


@settings(max_examples=60, deadline=None)
@given(bags=recorded_sets(), limit=st.integers(1, 10))
def test_cap_takes_the_first_episodes_of_the_uncapped_order(bags: list[RecordedBag], limit: int) -> None:
    """More data later keep the earlier choice."""
    assume(any(b.info.success and b.info.steps for b in bags))
    every = planned(bags, {}).episodes
    assert planned(bags, {"max_episodes": limit}).episodes == every[:limit]


@settings(max_examples=100, deadline=None)
@given(counts=st.dictionaries(st.sampled_from("abcd"), st.integers(2, 12), min_size=1), data=st.data())
def test_val_has_the_requested_size_without_shared_recordings(counts: dict[str, int], data: st.DataObject) -> None:
    episodes = data.draw(st.integers(len(counts), sum(counts.values()) - len(counts)))
    objects = data.draw(st.permutations([name for name, n in counts.items() for _ in range(n)]))
    val = hold_out(objects, [[i] for i in range(len(objects))], episodes)
    held = Counter(name for name, v in zip(objects, val, strict=True) if v)
    assert held.total() == episodes
    assert held == Counter(val_targets(counts, episodes))
    assert all(1 <= held[name] < n for name, n in counts.items())
    # Proportional, as far as at least one episode of each object in each split allows.
    for name, n in counts.items():
        another_is_full = any(held[other] == m - 1 for other, m in counts.items() if other != name)
        assert another_is_full or held[name] <= max(1, n * episodes / sum(counts.values()) + 1)


@settings(max_examples=150, deadline=None)
@given(
    episodes=st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 12), max_size=3)), min_size=2, max_size=25
    ),
    wanted=st.integers(1, 8),
)
def test_episodes_that_share_a_recording_stay_in_one_split(episodes: list[tuple[str, list[int]]], wanted: int) -> None:
    objects, keys = [e[0] for e in episodes], [e[1] for e in episodes]
    try:
        val = hold_out(objects, keys, wanted)
    except UserError:
        assume(False)
    sides = {True: set(), False: set()}
    for held, shared in zip(val, keys, strict=True):
        sides[held] |= set(shared)
    assert not sides[True] & sides[False]
    assert {o for o, v in zip(objects, val, strict=True) if v} == set(objects)
    assert {o for o, v in zip(objects, val, strict=True) if not v} == set(objects)


def test_impossible_splits_are_refused() -> None:
    with pytest.raises(UserError, match="split: object 'b' has 1 episode, which cannot be in train and in val"):
        hold_out(["a", "a", "b"], [[], [], []], 2)
    with pytest.raises(UserError, match="split: 4 of 4 episodes for val: 2 objects must be in val and in train"):
        hold_out(["a", "a", "b", "b"], [[], [], [], []], 4)
    with pytest.raises(UserError, match="split: the episodes of object 'a' share recordings: all would be in val"):
        hold_out(["a", "a"], [["x"], ["x"]], 1)


def test_copies_of_a_bag_stay_in_one_split(tmp_path: Path) -> None:
    """Equal bytes under other ids: a copy whose metadata.yaml was edited."""
    for seed in range(6):
        bag = record(tmp_path / "bags", seed=seed)
        copy = tmp_path / "copies" / bag.name
        shutil.copytree(bag, copy)
        text = (copy / "metadata.yaml").read_text()
        (copy / "metadata.yaml").write_text(text.replace(f"run-{seed}", f"other-{seed}"))
    (tmp_path / "r.yaml").write_text("name: a\nsources: [{bags: [bags, copies]}]\nsplit: {val_episodes: 4}\n")
    plan = make_plan(load_recipe(tmp_path / "r.yaml"), tmp_path)
    names = {split: {e.bags[0].name for e in plan.episodes if e.split == split} for split in ("train", "val")}
    assert [e.split for e in plan.episodes].count("val") == 4
    assert not names["train"] & names["val"]
