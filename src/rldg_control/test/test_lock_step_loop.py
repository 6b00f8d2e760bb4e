"""The loop cell, observer, policy, gate, cell in lock-step with the episode node: real processes and DDS."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient

from rldg_core import from_msg
from rldg_core.seeding import derive_seed
from rldg_msgs.action import RunEpisodes
from rldg_msgs.msg import EpisodeEvent, ExecutedAction, Step
from rldg_ros.qos import STREAM

DOMAIN = 30


def run_goal(rig: Any, goal: RunEpisodes.Goal, timeout_s: float = 60.0) -> tuple[int, RunEpisodes.Result]:
    client = ActionClient(rig.bench, RunEpisodes, "run_episodes")
    rig.until(client.server_is_ready, what="run_episodes")
    accepted = client.send_goal_async(goal)
    rig.until(accepted.done)
    result = accepted.result().get_result_async()
    rig.until(result.done, timeout_s, "result of run_episodes")
    client.destroy()
    return result.result().status, result.result().result


def start_loop(rig: Any) -> None:
    for node in ("observer", "gate", "episode"):
        rig.start(node, lockstep=True)


def check_episode(
    steps: list[Step], success_at: int | None, max_steps: int, seed: int, index: int, run_id: str = "seed7"
) -> None:
    """Check every field that the step semantics fix."""
    length = success_at if success_at is not None else max_steps
    assert [s.index for s in steps] == list(range(length + 1))
    assert {s.episode_id for s in steps} == {f"{run_id}/{index:06d}"}
    assert {s.seed for s in steps} == {derive_seed(seed, index)}
    assert [s.is_first for s in steps] == [True] + [False] * length
    assert [s.is_last for s in steps] == [False] * length + [True]
    ends = [False] * (length - 1) + [True, True]
    terminated, truncated = success_at is not None, success_at is None
    assert [s.terminated for s in steps] == [e and terminated for e in ends]
    assert [s.truncated for s in steps] == [e and truncated for e in ends]
    assert [s.success for s in steps] == [e and terminated for e in ends]
    assert [s.reward for s in steps] == [0.0] * (length - 1) + [float(terminated), 0.0]
    for step in steps[:-1]:
        assert step.action.source == ExecutedAction.POLICY
        assert step.action.observation_stamp == step.observation.header.stamp == step.header.stamp
    assert steps[-1].action.source == ExecutedAction.NONE
    assert len(steps[-1].action.executed) == 0
    stamps = [from_msg.stamp_ns(s.header.stamp) for s in steps]
    assert np.all(np.diff(stamps) == 100_000_000)
    # The next measured pose equals the target, since the fake cell reaches every target.
    for before, after in itertools.pairwise(steps):
        assert before.action.target_base_tcp == after.observation.pose_base_tcp
    first = from_msg.observation(steps[0].observation)
    np.testing.assert_array_equal(first.twist_base_tcp, np.zeros(6))
    assert not np.array_equal(from_msg.observation(steps[1].observation).twist_base_tcp, np.zeros(6))


def test_three_episodes_keep_the_step_semantics_and_repeat_bit_for_bit(make_rig: Callable[..., Any]) -> None:
    runs = []
    for _ in range(2):
        rig = make_rig(DOMAIN, lockstep=True)
        start_loop(rig)
        bench = rig.bench
        bench.success_at = 5
        status, result = run_goal(rig, RunEpisodes.Goal(episodes=2, seed=7, objects=["a", "b"]))
        assert (status, list(result.success)) == (GoalStatus.STATUS_SUCCEEDED, [True, True])
        assert list(result.steps) == [5, 5]
        assert list(result.episode_ids) == ["seed7/000000", "seed7/000001"]
        bench.success_at = None
        status, result = run_goal(rig, RunEpisodes.Goal(episodes=1, seed=7))
        assert (list(result.success), list(result.steps)) == ([False], [12])
        rig.until(lambda b=bench: len(b.steps) == 25 and len(b.events) == 6)
        assert [s.step_count for s in bench.steps] == [*range(6), *range(5, 11), *range(10, 23)]
        check_episode(bench.steps[:6], 5, 12, 7, 0)
        check_episode(bench.steps[6:12], 5, 12, 7, 1)
        assert {s.object for s in bench.steps[6:12]} == {"b"}
        assert {s.instruction for s in bench.steps[6:12]} == {"do b"}
        assert [e.kind for e in bench.events] == [EpisodeEvent.START, EpisodeEvent.END] * 3
        assert [e.reason for e in bench.events[1::2]] == ["success", "success", "time_limit"]
        assert len(bench.targets) == 22, "the cell does not advance beyond the end of an episode"
        # Compared as text: serialised messages differ in CDR's padding bytes, and NaN (gripper width) equals nothing.
        runs.append([str(step) for step in bench.steps])
        rig.close()
    assert runs[0] == runs[1]


def test_missing_node_is_reported(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN + 2, lockstep=True)
    rig.start("episode", lockstep=True, ready_timeout_s=1.0, needs="[gate,policy]")
    status, result = run_goal(rig, RunEpisodes.Goal(episodes=1))
    assert status == GoalStatus.STATUS_ABORTED
    assert result.message == (
        "not ready: nobody publishes observation; nobody publishes executed_action; "
        "node gate does not listen; node policy does not listen"
    )


def test_node_discovered_late_receives_earlier_messages(make_rig: Callable[..., Any]) -> None:
    """Observation, answer and START are published before the gate exists: volatile topics would lose them."""
    rig = make_rig(DOMAIN + 1, lockstep=True)
    rig.start("observer", lockstep=True)
    rig.start("episode", lockstep=True, needs="[bench]")
    stand_in = rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    client = ActionClient(rig.bench, RunEpisodes, "run_episodes")
    rig.until(client.server_is_ready, what="run_episodes")
    accepted = client.send_goal_async(RunEpisodes.Goal(episodes=1, seed=3))
    rig.until(lambda: rig.bench.answered, what="the policy's first answer")
    rig.bench.destroy_publisher(stand_in)
    rig.start("gate", lockstep=True)
    result = accepted.result().get_result_async()
    rig.until(result.done, 40.0, "result of run_episodes")
    assert list(result.result().result.steps) == [12]
    rig.until(lambda: len(rig.bench.steps) == 13, what="all Steps")
    check_episode(rig.bench.steps, None, 12, 3, 0, run_id="seed3")


def test_unknown_object_aborts_the_goal_by_name(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN + 2, lockstep=True)
    rig.start("episode", lockstep=True)
    status, result = run_goal(rig, RunEpisodes.Goal(episodes=1, objects=["hdmi2"]))
    assert status == GoalStatus.STATUS_ABORTED
    assert "unknown object 'hdmi2'" in result.message
