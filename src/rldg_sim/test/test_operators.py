"""The scripted operator: succeeds like a person, slowly and never twice alike; intervenes by its schedule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.task import Task
from rldg_sim.cell import Cell
from rldg_sim.episodes import ask
from rldg_sim.operators.config import OperatorConfig
from rldg_sim.operators.insertion import InsertionOperator
from rldg_sim.pairing import StampPairs
from rldg_sim.scene import make_operator


def episode(cell: Cell, operator: InsertionOperator, seed: int, steps: int = 100) -> tuple[bool, np.ndarray]:
    frame = cell.reset(seed)
    operator.reset(seed)
    actions = []
    for _ in range(steps):
        action, _active = ask(operator, frame)
        actions.append(action)
        frame = cell.step(action)
        if frame.success:
            break
    return frame.success, np.array(actions)


@pytest.fixture(scope="module")
def demonstrations(insertion: Task) -> list[tuple[bool, np.ndarray]]:
    cell, operator = Cell(insertion, "vga", render=False), make_operator(OperatorConfig(), insertion)
    return [episode(cell, operator, seed) for seed in range(30)]


def test_most_demonstrations_succeed_within_the_time_limit(demonstrations: list[tuple[bool, np.ndarray]]) -> None:
    """30 seeded episodes; the report of the package has results over more."""
    assert np.mean([success for success, _ in demonstrations]) >= 0.7


def test_demonstrations_are_slow_and_hesitant(demonstrations: list[tuple[bool, np.ndarray]]) -> None:
    lengths = [len(actions) for success, actions in demonstrations if success]
    assert np.mean(lengths) > 40, "reinforcement learning needs about 20 steps"
    actions = np.concatenate([a for _, a in demonstrations])
    sizes = np.linalg.norm(actions[:, :3], axis=1)
    assert np.mean(sizes < 0.1) > 0.1, "pauses"
    assert sizes.max() < 1.0, "cautious"


def test_operator_is_inactive_before_its_reaction_time(insertion: Task) -> None:
    config = OperatorConfig(tremor=0.0, reaction_s=0.3)
    _, actions = episode(Cell(insertion, render=False), make_operator(config, insertion), 2, steps=6)
    assert np.all(actions[:3] == 0) and np.any(actions[3:] != 0)


def test_same_seed_gives_the_same_actions(insertion: Task) -> None:
    runs = []
    for seed in (4, 4, 5):
        operator = make_operator(OperatorConfig(), insertion)
        runs.append(episode(Cell(insertion, render=False), operator, seed, steps=20)[1])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def still(config: OperatorConfig, insertion: Task, episodes: int, steps: int) -> np.ndarray:
    """Return whether the operator acts, (episodes, steps), while the policy makes no progress."""
    operator = make_operator(config, insertion)
    active = []
    for seed in range(episodes):
        operator.reset(seed)
        away = np.array([0.02, 0.0, -0.03, 0.0, 0.0, 0.0, 1.0])
        active.append([operator.act(away, np.zeros(6), away, away, 0.02, k * 0.1)[1] for k in range(steps)])
    return np.array(active)


def test_mode_off_never_acts_and_demonstrate_always_acts(insertion: Task) -> None:
    assert not still(OperatorConfig(mode="off"), insertion, 1, 20).any()
    assert still(OperatorConfig(mode="demonstrate"), insertion, 1, 20).all()


def test_interventions_start_without_progress_and_last_a_seeded_number_of_steps(insertion: Task) -> None:
    config = OperatorConfig(mode="intervene", chance_hz=0.0, patience_s=2.0, intervention_steps=(5, 8))
    active = still(config, insertion, 10, 100)
    assert not active[:, :20].any(), "patience"
    for row in active:
        starts, ends = np.flatnonzero(np.diff(row.astype(int)) == 1), np.flatnonzero(np.diff(row.astype(int)) == -1)
        lengths = ends - starts[: len(ends)]
        assert len(lengths) >= 2 and np.all((lengths >= 5) & (lengths <= 8))
    assert len({int(row.sum()) for row in active}) > 1


def test_random_interventions_become_rare(insertion: Task) -> None:
    config = OperatorConfig(mode="intervene", chance_hz=0.5, chance_decay=0.9, patience_s=1e6)
    active = still(config, insertion, 60, 50)
    assert active[:10].mean() > 3 * active[40:].mean()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "help"}, "mode: expected"),
        ({"pause_s": (0.5, 0.1)}, "pause_s: expected"),
        ({"tremor": float("nan")}, "tremor: expected"),
        ({"bandwidth_hz": 0.0}, "bandwidth_hz: must not be 0"),
    ],
)
def test_bad_parameters_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OperatorConfig(), **values)  # type: ignore[arg-type]


arrivals = st.lists(st.tuples(st.sampled_from("qfs"), st.integers(0, 12)), max_size=60)


@given(arrivals)
@settings(max_examples=100)
def test_every_pair_of_the_episode_is_returned_once_in_order(events: list[tuple[str, int]]) -> None:
    pairs: StampPairs[int, int] = StampPairs()
    returned: list[int] = []
    start: int | None = None
    for kind, stamp in events:
        if kind == "s":
            if start is not None:
                continue
            start = stamp
            pairs.start(stamp)
        elif kind == "q":
            pairs.add_first(stamp, stamp)
        else:
            pairs.add_second(stamp, stamp)
        for due, first, second in pairs.due():
            assert due == first == second
            returned.append(due)
    assert returned == sorted(set(returned))
    assert all(start is not None and stamp >= start for stamp in returned)
    pairs.stop()
    pairs.add_first(99, 99)
    pairs.add_second(99, 99)
    assert pairs.due() == []
