"""The back-ends hold and scripted, and how back-ends are found."""

from __future__ import annotations

import numpy as np
import pytest

from rldg_core.errors import UserError
from rldg_core.frames import compose_delta
from rldg_core.registry import backends, factory
from rldg_policy.scripted import ScriptedPolicy


def test_unknown_back_end_lists_the_available_ones():
    assert {"hold", "scripted", "compact"} <= set(backends())
    with pytest.raises(UserError, match=r"unknown policy back-end 'octopus', expected one of .*hold"):
        factory("octopus")


def test_hold_does_not_move(task, observe):
    policy = factory("hold")(None, task, False)
    assert np.array_equal(policy.act(observe()), np.zeros((1, 6), dtype=np.float32))


def test_scripted_reaches_the_target_in_free_space(task, observe):
    policy = ScriptedPolicy(None, task)
    policy.reset("insert", 3)
    offset = np.array([0.04, -0.03, 0.0])
    for _ in range(60):
        observation = observe(offset=offset)
        delta_tcp = task.action.to_delta_tcp(policy.act(observation)[0])
        pose = compose_delta(observation.pose_base_tcp, delta_tcp)
        offset = pose[:3] - np.array(task.reset.pose_base_tcp)[:3]
    assert np.allclose(pose[:3], task.target_pose_base_tcp[:3], atol=2e-4)


def test_scripted_searches_when_blocked_and_repeats_for_a_seed(task, observe):
    def lateral(seed: int) -> np.ndarray:
        policy = ScriptedPolicy(None, task)
        policy.reset("insert", seed)
        return np.array([policy.act(observe(offset=(0, 0, -0.045), force_n=10.0))[0, :2] for _ in range(10)])

    first = lateral(1)
    assert np.array_equal(first, lateral(1)) and not np.array_equal(first, lateral(2))
    radius = np.linalg.norm(first, axis=1)
    assert np.all(np.diff(radius) > 0) and radius[-1] * task.action.scale_m < 0.002
