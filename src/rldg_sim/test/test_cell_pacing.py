"""When the cell advances: on targets and widths of the last frame, or with the wall clock. The physics is real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.task import find_task
from rldg_sim.cell import Cell
from rldg_sim.pacing import IMAGE_PERIOD_S, MAX_LAG_S, RULES, LockStepCell, RealTimeCell

TASKS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "tasks"
FIRST_NS = 7_000_000_000


def make_cell(task: str) -> Cell:
    return Cell(find_task(task, [TASKS]), render=False)


@pytest.fixture(scope="module")
def plug() -> Cell:
    return make_cell("insertion")


@pytest.fixture(scope="module")
def grasping() -> Cell:
    return make_cell("pick_and_place")


def no_clock() -> int:
    raise AssertionError("lock-step reads no clock")


@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.sampled_from(["target", "width", "old target", "old width", "tick"]), max_size=30))
def test_lock_step_advances_one_period_for_a_target_and_a_width_of_the_last_frame(
    grasping: Cell, order: list[str]
) -> None:
    pace = LockStepCell(grasping, FIRST_NS, no_clock)
    period_ns = grasping.task.period_ns
    assert pace.start(0) is None and not pace.expects(FIRST_NS), "nothing happens before the first reset"
    newest = pace.reset(3, "")
    assert newest.stamp_ns == FIRST_NS + 2 * period_ns
    arrived: set[str] = set()
    for item in order:
        if item == "tick":
            assert pace.tick() is None
            continue
        kind, old = item.split()[-1], item.startswith("old")
        stamp_ns = newest.stamp_ns - period_ns if old else newest.stamp_ns
        assert pace.expects(stamp_ns) is not old
        if old:
            continue  # the node does not pass it on
        arrived.add(kind)
        sample = pace.take_target(newest.frame.pose_base_tcp) if kind == "target" else pace.take_width(0.02)
        assert (sample is not None) == (arrived == {"target", "width"})
        if sample is not None:
            assert sample.stamp_ns == newest.stamp_ns + period_ns and sample.with_images and pace.scene_due()
            assert sample.frame.stamp_ns == newest.frame.stamp_ns + period_ns
            newest, arrived = sample, set()


def test_reset_discards_input_for_the_last_frame(grasping: Cell) -> None:
    pace = LockStepCell(grasping, 0, no_clock)
    first = pace.reset(1, "")
    assert pace.take_target(first.frame.pose_base_tcp) is None
    second = pace.reset(1, "")
    assert second.stamp_ns == first.stamp_ns + 2 * grasping.task.period_ns
    assert pace.take_width(0.04) is None, "the target belonged to the previous scene"


def test_task_without_gripper_needs_no_width(plug: Cell) -> None:
    pace = LockStepCell(plug, 0, no_clock)
    pose = pace.reset(1, "").frame.pose_base_tcp
    assert pace.take_target(pose) is not None


@pytest.mark.parametrize("name", sorted(RULES))
def test_refused_reset_changes_nothing(plug: Cell, name: str) -> None:
    pace = RULES[name](plug, 0, lambda: 5)
    stamp_ns = pace.reset(1, "").stamp_ns
    with pytest.raises(UserError, match="unknown object 'hdmi2'"):
        pace.reset(1, "hdmi2")
    assert pace.expects(stamp_ns)


def test_real_time_follows_the_clock_and_takes_targets_of_any_stamp(plug: Cell) -> None:
    now_s = 100.0
    pace = RealTimeCell(plug, FIRST_NS, lambda: round(now_s * 1e9), lambda: now_s)
    first = pace.start(4)
    assert first is not None and (first.stamp_ns, first.with_images) == (100 * 10**9, True)
    assert pace.expects(-5) and pace.tick() is None, "no time has passed"
    target = first.frame.pose_base_tcp + np.array([0.0, 0.0, -0.01, 0.0, 0.0, 0.0, 0.0])
    assert pace.take_target(target) is None
    images, scenes = [], 0
    for _ in range(100):
        now_s += 0.01
        sample = pace.tick()
        assert sample is not None and sample.stamp_ns == round(now_s * 1e9)
        if sample.with_images:
            images.append(sample.stamp_ns)
            scenes += pace.scene_due()
    assert sample.frame.time_s == pytest.approx(1.0, abs=2e-3)
    assert len(images) == pytest.approx(1 / IMAGE_PERIOD_S, abs=2) and 1 <= scenes <= 2
    np.testing.assert_allclose(sample.frame.pose_base_tcp[:3], target[:3], atol=2e-3)


def test_real_time_catches_up_by_little_and_not_after_a_reset(plug: Cell) -> None:
    now_s = 10.0
    pace = RealTimeCell(plug, 0, lambda: 1, lambda: now_s)
    pace.start(4)
    now_s += 5.0
    late = pace.tick()
    assert late is not None and late.frame.time_s == pytest.approx(MAX_LAG_S, abs=2e-3), "slow motion instead of a jump"
    now_s += 0.08
    pace.reset(4, "")
    assert pace.tick() is None, "the reset ended now"
