"""The gripper state in a dataset is the commanded one, by the rules of the gripper node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.types import Source
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.build import build_episode
from rldg_data.episodes.gripper import opening
from rldg_data.plan import EpisodePlan
from rldg_data.testing.steps import make_episode, make_task

commands = st.lists(
    st.tuples(
        st.sampled_from([-1.0, -0.6, -0.5, 0.0, 0.3, 0.5, 0.51, 1.0]),
        st.sampled_from([Source.POLICY, Source.HUMAN, Source.HOLD]),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(commanded=commands, width_m=st.sampled_from([float("nan"), 0.0, 0.03, 0.08]))
def test_gripper_state_changes_only_on_commands(commanded: list[tuple[float, Source]], width_m: float) -> None:
    """Compare with the rule, applied step by step."""
    expected, now = [], 0.0 if width_m < 0.07 else 1.0
    for command, source in commanded:
        if source != Source.HOLD and abs(command) > 0.5:
            now = float(command > 0)
        expected.append(now)
    values = np.array([command for command, _ in commanded])
    np.testing.assert_array_equal(opening(values, [source for _, source in commanded], width_m), expected)


@pytest.mark.parametrize(("width_m", "before"), [(0.08, 1.0), (float("nan"), 1.0), (0.02, 0.0)])
def test_gripper_state_of_an_episode_is_the_commanded_one(tmp_path: Path, width_m: float, before: float) -> None:
    commanded = [0.0, -1.0, 0.0, 0.2, 1.0, 0.0]
    steps = [
        replace(
            step,
            observation=replace(step.observation, gripper_width_m=width_m),
            action=step.action
            if step.is_last
            else replace(step.action, executed=np.array([0.1] * 6 + [commanded[step.index]], np.float32)),
        )
        for step in make_episode(6, gripper=True)
    ]
    bag = write_episode(tmp_path, steps, make_task(gripper=True))
    gripper = build_episode(EpisodePlan("train", (bag,))).action[:, 6]
    assert gripper.tolist() == [before, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
