"""The gate as a process in real time: commands, latches, release, shutdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMsg
from std_msgs.msg import String
from std_srvs.srv import Trigger

from rldg_core.frames import pose
from rldg_core.from_msg import pose_array
from rldg_msgs.msg import ExecutedAction, GateStatus, TeleopAction
from rldg_msgs.srv import Hold
from rldg_ros import to_msg
from rldg_ros.qos import LATCHED, TARGET

DOMAIN = 210

MEASURED = pose([0.51, 0.0, 0.19], [1.0, 0.0, 0.0, 0.0])


@pytest.fixture
def gate(make_rig: Callable[..., Any]) -> Iterator[tuple[Any, Any, Any]]:
    rig = make_rig(DOMAIN)
    statuses = rig.record_statuses()
    rig.process = rig.start("gate")
    inputs = rig.publish_inputs()
    rig.until(lambda: statuses.newest("gate") == "ready", what="gate ready")
    return rig, inputs, statuses


def run_some(rig: Any, inputs: Any, count: int = 3) -> None:
    inputs.start_episode()
    rig.until(lambda: len(rig.bench.executed) >= count, what="executed actions")


def held_once(rig: Any) -> None:
    """Check that the measured pose was the last target and that nothing follows."""
    rig.until(lambda: rig.bench.sources()[-1:] == [ExecutedAction.HOLD], what="the hold")
    rig.until(lambda: len(rig.bench.targets) == len(rig.bench.executed))
    count = len(rig.bench.targets)
    np.testing.assert_allclose(pose_array(rig.bench.targets[-1].pose), MEASURED)
    rig.spin_for(0.4)
    assert len(rig.bench.targets) == count, "no target after the hold"
    assert rig.bench.sources().count(ExecutedAction.HOLD) == 1


def test_gate_executes_latches_and_is_released(gate: tuple[Any, Any, Any]) -> None:
    rig, inputs, statuses = gate
    rig.spin_for(0.3)
    assert not rig.bench.targets, "no target without an episode"
    run_some(rig, inputs)
    target = pose_array(rig.bench.targets[0].pose)
    np.testing.assert_allclose(target[:3], [0.51, 0.0, 0.175], atol=1e-9)  # +z of the tool points down
    np.testing.assert_allclose(target[3:], MEASURED[3:], atol=1e-12)
    assert rig.bench.targets[0].header.frame_id == "base"
    assert rig.call(Trigger, "gate/stop", Trigger.Request()).success
    held_once(rig)
    rig.until(lambda: statuses.newest("gate") == "latched: stop requested", what="diagnostics")
    assert statuses.value("gate", "reason") == "stop requested"
    assert statuses.gate[-1] == (GateStatus.LATCHED, GateStatus.REQUEST, "stop requested")
    answer = rig.call(Hold, "gate/hold", Hold.Request(hold=False))
    assert (answer.success, answer.message) == (True, "released: stop requested")
    count = len(rig.bench.targets)
    inputs.start_episode()
    rig.until(lambda: len(rig.bench.targets) > count, what="motion after the release")


@pytest.mark.parametrize(
    ("what", "reason"), [("acting", "latched: no action from policy"), ("observing", "latched: no observation")]
)
def test_gate_latches_when_policy_or_observer_stops(gate: tuple[Any, Any, Any], what: str, reason: str) -> None:
    rig, inputs, statuses = gate
    run_some(rig, inputs, 12)  # after the grace period at the start
    setattr(inputs, what, False)
    held_once(rig)
    rig.until(lambda: statuses.newest("gate").startswith(reason), what=reason)


def test_gate_lets_a_person_override_within_one_tick(gate: tuple[Any, Any, Any]) -> None:
    rig, inputs, statuses = gate
    run_some(rig, inputs)
    before = len(rig.bench.executed)
    action = to_msg.floats([0, 1, 0, 0, 0, 0])
    push = TeleopAction(action=action, active=True, source=TeleopAction.HUMAN)
    inputs.teleop_out.publish(push)  # stamp 0, like a message stored by a transient-local topic
    rig.until(lambda: int(statuses.value("gate", "stale_teleop")) == 1, what="old input is counted")
    assert ExecutedAction.HUMAN not in rig.bench.sources()[before:]
    before = len(rig.bench.executed)
    push.header.stamp = to_msg.time(inputs.now_ns())
    inputs.teleop_out.publish(push)
    sent_s = monotonic()
    rig.until(lambda: ExecutedAction.HUMAN in rig.bench.sources()[before:], 2.0)
    first_human = rig.bench.sources().index(ExecutedAction.HUMAN)
    assert first_human - before <= 2  # one action was in transit, one is the tick in which the push arrives
    rig.until(lambda: len(rig.bench.targets) > first_human, what="its target")
    np.testing.assert_allclose(pose_array(rig.bench.targets[first_human].pose)[1], -0.015, atol=1e-9)
    rig.until(lambda: rig.bench.sources()[-1] == ExecutedAction.POLICY, 2.0, "release")
    assert monotonic() - sent_s > 0.15  # ticks are counted, since an upper bound in seconds would measure the machine
    assert rig.bench.sources().count(ExecutedAction.HUMAN) <= 4  # a push counts for 0.2 s


def test_gate_names_a_second_publisher(gate: tuple[Any, Any, Any]) -> None:
    rig, inputs, statuses = gate
    rogue = Node("rogue", context=rig.context, use_global_arguments=False)
    publisher = rogue.create_publisher(PoseStamped, "/target_pose", TARGET)
    expected = "latched: /target_pose: second publisher /rogue, expected only the gate: stop it"
    rig.until(lambda: statuses.newest("gate") == expected, what=expected)
    inputs.start_episode()
    rig.spin_for(0.3)
    assert ExecutedAction.POLICY not in rig.bench.sources()
    assert not rig.call(Hold, "gate/hold", Hold.Request(hold=False)).success
    rogue.destroy_publisher(publisher)
    rogue.destroy_node()
    rig.until(lambda: rig.call(Hold, "gate/hold", Hold.Request(hold=False)).success, what="release")


def test_inactive_gate_is_silent_and_can_be_activated_again(gate: tuple[Any, Any, Any]) -> None:
    rig, inputs, statuses = gate
    run_some(rig, inputs)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_DEACTIVATE
    assert rig.call(ChangeState, "gate/change_state", request).success
    held_once(rig)
    rig.until(lambda: statuses.newest("gate") == "inactive", what="inactive")
    request.transition.id = Transition.TRANSITION_ACTIVATE
    assert rig.call(ChangeState, "gate/change_state", request).success
    rig.bench.executed.clear()
    run_some(rig, inputs)


def test_gate_counts_invalid_actions_and_sends_the_measured_pose_on_sigint(gate: tuple[Any, Any, Any]) -> None:
    rig, inputs, statuses = gate
    rig.bench.policy = lambda _stamp: [float("nan")] * 6
    inputs.start_episode()
    rig.until(lambda: statuses.newest("gate").startswith("latched: no action from policy"), what="latch")
    assert int(statuses.value("gate", "rejected_actions")) >= 2
    held_once(rig)
    rig.call(Hold, "gate/hold", Hold.Request(hold=False))
    rig.bench.policy = lambda _stamp: [0.0] * 6
    rig.bench.executed.clear()
    rig.bench.targets.clear()
    run_some(rig, inputs)
    code, output = rig.end(rig.process)
    assert code == 0, output
    assert "Traceback" not in output
    held_once(rig)


def test_gate_survives_jumps_of_simulated_time(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(DOMAIN + 1)
    statuses = rig.record_statuses()
    clock_out = rig.bench.create_publisher(ClockMsg, "/clock", 10)
    rig.start("gate", use_sim_time=True)
    inputs = rig.publish_inputs()
    inputs.offset_ns = 100 * 10**9 - inputs.now_ns()  # simulated time starts at 100 s
    steady = Clock(clock_type=ClockType.STEADY_TIME)
    tell = lambda: clock_out.publish(ClockMsg(clock=to_msg.time(inputs.now_ns())))  # noqa: E731
    rig.bench.create_timer(0.02, tell, clock=steady)
    run_some(rig, inputs, 12)
    inputs.offset_ns += 3600 * 10**9  # an hour forward: /clock and stamps together
    count = len(rig.bench.executed)
    rig.until(lambda: len(rig.bench.executed) > count + 3, what="actions after the jump")
    assert ExecutedAction.HOLD not in rig.bench.sources()
    inputs.offset_ns -= 3650 * 10**9  # and back to before the start of the episode
    rig.until(lambda: statuses.newest("gate").startswith("latched: no observation"), what="latch")
    held_once(rig)


class Controller:
    """A node with the name and the parameter of crisp's controller, and with the robot description."""

    def __init__(self, rig: Any, urdf: str, end_effector_frame: str) -> None:
        self.rig = rig
        self.node = Node("cartesian_impedance_controller", context=rig.context, use_global_arguments=False)
        self.node.declare_parameter("end_effector_frame", end_effector_frame)
        self._description = self.node.create_publisher(String, "/robot_description", LATCHED)
        self._description.publish(String(data=urdf))
        rig.executor.add_node(self.node)

    def close(self) -> None:
        self.rig.executor.remove_node(self.node)
        self.node.destroy_node()


def test_gate_latches_unless_the_controlled_frame_is_the_measured_one(make_rig: Callable[..., Any], fr3: Any) -> None:
    """Desk measures the hand's tcp and the controller moves the flange: every target would be off by 103 mm."""
    rig = make_rig(DOMAIN + 2)
    statuses = rig.record_statuses()
    rig.start("gate", controller="cartesian_impedance_controller")
    inputs = rig.publish_inputs()
    inputs.measured, inputs.joints = fr3.ready_pose, fr3.ready_q
    expected = "latched: /cartesian_impedance_controller: does not run: its parameter end_effector_frame is not known"
    rig.until(lambda: statuses.newest("gate") == expected, what=expected)
    wrong = Controller(rig, fr3.urdf, "fr3_link8")
    expected = "latched: the measured pose is not that of the controller's end_effector_frame fr3_link8: 103.4 mm"
    rig.until(lambda: statuses.newest("gate").startswith(expected), what=expected)
    inputs.start_episode()
    answer = rig.call(Hold, "gate/hold", Hold.Request(hold=False))
    assert not answer.success and answer.message.startswith("still latched: the measured pose is not that of")
    assert ExecutedAction.POLICY not in rig.bench.sources()
    wrong.close()


def test_gate_runs_when_the_controlled_frame_is_the_measured_one(make_rig: Callable[..., Any], fr3: Any) -> None:
    rig = make_rig(DOMAIN + 3)
    statuses = rig.record_statuses()
    controller = Controller(rig, fr3.urdf, "fr3_hand_tcp")
    rig.start("gate", controller="cartesian_impedance_controller")
    inputs = rig.publish_inputs()
    inputs.measured, inputs.joints = fr3.ready_pose, fr3.ready_q
    rig.until(lambda: statuses.newest("gate") == "ready", what="ready")
    inputs.start_episode()
    rig.until(lambda: ExecutedAction.POLICY in rig.bench.sources(), what="actions")
    controller.close()
