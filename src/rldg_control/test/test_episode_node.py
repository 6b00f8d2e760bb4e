"""The episode node in real time: resets by a person, labels, stops, faults of the stack."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from sensor_msgs.msg import Joy
from std_srvs.srv import Trigger

from rldg_msgs.action import RunEpisodes
from rldg_msgs.msg import EpisodeEvent, ExecutedAction
from rldg_msgs.srv import Hold, LabelEpisode
from rldg_ros.qos import STREAM

DOMAIN = 214


@pytest.fixture
def hardware(make_rig: Callable[..., Any]) -> Iterator[tuple[Any, Any]]:
    """Run gate and episode nodes as on hardware: real time, operator resets, labels."""
    rig = make_rig(DOMAIN, changes={"reward": {"source": "operator"}})
    rig.start("gate")
    rig.start("episode", reset_mode="operator", run_id="run")
    statuses, inputs = rig.record_statuses(), rig.publish_inputs()
    # The bench subscribes, too: a gate that is not connected yet would latch for lack of observations.
    rig.until(lambda: inputs.observation_out.get_subscription_count() > 2, what="gate and episode")
    rig.until(lambda: statuses.newest("gate") == "ready", what="gate ready")
    rig.spin_for(0.3)
    return rig, inputs


def send(rig: Any, **fields: Any) -> Any:
    client = ActionClient(rig.bench, RunEpisodes, "run_episodes")
    rig.until(client.server_is_ready, what="run_episodes")
    future = client.send_goal_async(RunEpisodes.Goal(**fields))
    rig.until(future.done)
    return future.result()


def result_of(rig: Any, handle: Any) -> tuple[int, RunEpisodes.Result]:
    future = handle.get_result_async()
    rig.until(future.done, what="result")
    return future.result().status, future.result().result


def confirm_reset(rig: Any) -> None:
    rig.until(lambda: rig.call(Trigger, "episode/reset", Trigger.Request()).success, what="episode/reset")


def test_operator_reset_and_label_with_one_goal_at_a_time(hardware: tuple[Any, Any]) -> None:
    rig, _ = hardware
    label = LabelEpisode.Request(success=True)
    handle = send(rig, episodes=2)
    assert not send(rig, episodes=1).accepted
    assert rig.call(LabelEpisode, "episode/label", label).message == "no episode is running"
    joy = rig.bench.create_publisher(Joy, "/spacenav/joy", 10)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 3, what="steps")
    assert rig.call(LabelEpisode, "episode/label", label).accepted
    rig.until(lambda: rig.bench.steps[-1].is_last, what="last step")
    assert [(s.terminated, s.success) for s in rig.bench.steps[-2:]] == [(True, True)] * 2
    # Use the buttons for the second one: 0 starts, 1 reports failure.
    count = len(rig.bench.steps)
    rig.spin_for(0.3)
    joy.publish(Joy(buttons=[1, 0]))
    rig.until(lambda: len(rig.bench.steps) > count, what="start by button")
    joy.publish(Joy(buttons=[0, 1]))
    status, result = result_of(rig, handle)
    assert (status, list(result.success)) == (GoalStatus.STATUS_SUCCEEDED, [True, False])
    assert list(result.episode_ids) == ["run/000000", "run/000001"]
    rig.until(lambda: [e.reason for e in rig.bench.events if e.kind == EpisodeEvent.END] == ["label", "label"])


def test_latch_truncates_and_stop_on_hold_ends_the_goal(hardware: tuple[Any, Any]) -> None:
    rig, _ = hardware
    handle = send(rig, episodes=2, stop_on_hold=True)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 2, what="steps")
    rig.call(Trigger, "gate/stop", Trigger.Request())
    status, result = result_of(rig, handle)
    assert (status, result.episodes, result.message) == (
        GoalStatus.STATUS_ABORTED,
        0,
        "the gate latched: stop requested",
    )
    rig.until(lambda: rig.bench.steps[-1].is_last, what="last step")
    assert (rig.bench.steps[-1].truncated, rig.bench.steps[-1].terminated) == (True, False)
    rig.until(lambda: rig.bench.events[-1].kind == EpisodeEvent.END, what="END")
    assert rig.bench.events[-1].reason == "operator_stop"


def test_episode_interrupted_by_a_latch_is_repeated_after_the_release(hardware: tuple[Any, Any]) -> None:
    rig, _ = hardware
    handle = send(rig, episodes=1, seed=3)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 2, what="steps")
    rig.call(Trigger, "gate/stop", Trigger.Request())
    rig.until(lambda: rig.bench.steps[-1].is_last, what="the end")
    rig.call(Hold, "gate/hold", Hold.Request(hold=False))
    confirm_reset(rig)
    status, result = result_of(rig, handle)
    assert (status, result.episodes, list(result.episode_ids)) == (GoalStatus.STATUS_SUCCEEDED, 1, ["run/000001"])
    assert len({step.seed for step in rig.bench.steps}) == 1, "the same seed again"


@pytest.mark.parametrize("frozen", ["before", "during"])
def test_frozen_gate_ends_the_goal_without_an_episode(hardware: tuple[Any, Any], frozen: str) -> None:
    rig, _ = hardware
    gate = rig.processes[0]
    if frozen == "before":
        gate.send_signal(signal.SIGSTOP)
    handle = send(rig, episodes=10, stop_on_hold=True)
    confirm_reset(rig)
    if frozen == "during":
        rig.until(lambda: len(rig.bench.steps) >= 2, what="steps")
        gate.send_signal(signal.SIGSTOP)
    status, result = result_of(rig, handle)
    assert (status, result.episodes, list(result.success)) == (GoalStatus.STATUS_ABORTED, 0, [])
    assert result.message == ("run/000000: no executed action for 2 s: does the gate run? The episode does not count.")
    rig.until(lambda: rig.bench.events[-1].kind == EpisodeEvent.END, what="END")
    assert rig.bench.events[-1].reason == "stack_fault"
    gate.send_signal(signal.SIGCONT)


def test_late_camera_stamps_are_named_by_gate_and_goal(hardware: tuple[Any, Any]) -> None:
    rig, inputs = hardware
    handle = send(rig, episodes=3, stop_on_hold=True)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 4, what="steps")
    inputs.offset_ns = -700_000_000
    status, result = result_of(rig, handle)
    assert (status, result.episodes) == (GoalStatus.STATUS_ABORTED, 0)
    assert result.message.startswith("the gate latched: no usable observation for 0.")
    assert "observations are 0.7" in result.message and "s old by their stamps, limit 0.20 s" in result.message


def test_goal_names_a_stopped_clock(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN + 1)
    rig.start("episode", use_sim_time=True, ready_timeout_s=0.5)
    status, result = result_of(rig, send(rig, episodes=1))
    assert (status, result.episodes) == (GoalStatus.STATUS_ABORTED, 0)
    assert result.message == ("not ready: the clock does not run: use_sim_time is true and nothing publishes /clock")


def test_goal_names_the_fault_of_the_observer(make_rig: Callable[..., Any]) -> None:
    """Two cameras are configured and one is published: the result must name the other one."""
    camera = {"topic": "camera/image", "width": 64, "height": 64, "image_size": 64}
    rig = make_rig(DOMAIN + 2, changes={"cameras": {"wrist": camera, "front": {**camera, "topic": "front/image"}}})
    rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    rig.start("observer")
    rig.start("episode", needs="['']")
    sensors = rig.publish_sensors()
    status, result = result_of(rig, send(rig, episodes=1))
    assert sensors.images and (status, result.episodes) == (GoalStatus.STATUS_ABORTED, 0)
    assert result.message == "no observation after the reset: front: nothing received (/front/image)"


def test_cancel_truncates_and_the_result_follows_the_last_step(hardware: tuple[Any, Any]) -> None:
    rig, _ = hardware
    handle = send(rig, episodes=5)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 2, what="steps")
    rig.until(handle.cancel_goal_async().done, what="cancel")
    status, result = result_of(rig, handle)
    assert (status, result.episodes, list(result.success)) == (GoalStatus.STATUS_CANCELED, 0, [])
    assert result.message == "cancelled after 0 of 5 episodes"
    rig.until(lambda: rig.bench.steps[-1].is_last and rig.bench.steps[-1].truncated, what="last step")
