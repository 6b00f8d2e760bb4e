"""Each node as a real process in real time: what it publishes, what it refuses, how it ends."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from fr3_urdf import FR3_URDF, READY_POSE, READY_Q
from geometry_msgs.msg import PoseStamped, Twist, WrenchStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMsg
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger

from rldg_core.frames import pose
from rldg_core.from_msg import pose_array, stamp_ns
from rldg_core.image_codec import decode_jpeg
from rldg_msgs.action import RunEpisodes
from rldg_msgs.msg import EpisodeEvent, ExecutedAction, GateStatus, Observation, TeleopAction
from rldg_msgs.srv import Hold, LabelEpisode
from rldg_ros import to_msg
from rldg_ros.qos import EVENTS, LATCHED, STREAM, TARGET, VENDOR_STATE

MEASURED = pose([0.51, 0.0, 0.19], [1.0, 0.0, 0.0, 0.0])


class Statuses:
    """What /diagnostics says."""

    def __init__(self, rig: Any) -> None:
        self.messages: dict[str, list[DiagnosticStatus]] = {}
        rig.bench.create_subscription(DiagnosticArray, "/diagnostics", self._on, 50)
        self.gate: list[tuple[int, int, str]] = []
        rig.bench.create_subscription(GateStatus, "gate_status", self._on_gate, LATCHED)

    def _on(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.messages.setdefault(status.name, []).append(status)

    def _on_gate(self, message: GateStatus) -> None:
        self.gate.append((message.phase, message.cause, message.reason))

    def newest(self, node: str) -> str:
        """Of a node in /rldg, or of a full name."""
        name = node if node.startswith("/") else f"/rldg/{node}"
        return self.messages[name][-1].message if name in self.messages else ""

    def value(self, node: str, key: str, default: str = "") -> str:
        statuses = self.messages.get(f"/rldg/{node}", [])
        return {v.key: v.value for status in statuses[-1:] for v in status.values}.get(key, default)


class Driven:
    """The gate (or the episode node) under a bench that publishes observations at 10 Hz on the wall clock."""

    def __init__(self, rig: Any) -> None:
        self.rig, self.bench = rig, rig.bench
        self.clock = Clock(clock_type=ClockType.SYSTEM_TIME)
        self.observation_out = self.bench.create_publisher(Observation, "observation", STREAM)
        self.event_out = self.bench.create_publisher(EpisodeEvent, "episode_event", EVENTS)
        self.teleop_out = self.bench.create_publisher(TeleopAction, "teleop_action", STREAM)
        self.observing = self.acting = True
        self.offset_ns = 0
        self.measured, self.joints = MEASURED, [0.0] * 7
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.timer = self.bench.create_timer(0.1, self._tick, clock=steady)
        rig.until(lambda: self.observation_out.get_subscription_count() > 1, what="a listener")

    def now_ns(self) -> int:
        return int(self.clock.now().nanoseconds) + self.offset_ns

    def _tick(self) -> None:
        if self.observing:
            stamp = self.now_ns()
            message = Observation(header=to_msg.header(stamp, "base"), pose_base_tcp=to_msg.pose(self.measured))
            message.joint_positions = to_msg.doubles(self.joints)
            self.observation_out.publish(message)
            if self.acting:
                self.bench.act(stamp)

    def start_episode(self) -> None:
        head = to_msg.time(self.now_ns())
        self.event_out.publish(EpisodeEvent(kind=EpisodeEvent.START, episode_id="e", first_observation_stamp=head))


@pytest.fixture
def gate(make_rig: Callable[..., Any]) -> Iterator[tuple[Any, Driven, Statuses]]:
    rig = make_rig(33)
    statuses = Statuses(rig)
    rig.process = rig.start("gate")
    driven = Driven(rig)
    rig.until(lambda: statuses.newest("gate") == "ready", what="gate ready")
    return rig, driven, statuses


def run_some(rig: Any, driven: Driven, count: int = 3) -> None:
    driven.start_episode()
    rig.until(lambda: len(rig.bench.executed) >= count, what="executed actions")


def held_once(rig: Any) -> None:
    """The measured pose was the last target, and nothing follows."""
    rig.until(lambda: rig.bench.sources()[-1:] == [ExecutedAction.HOLD], what="the hold")
    rig.until(lambda: len(rig.bench.targets) == len(rig.bench.executed))
    count = len(rig.bench.targets)
    np.testing.assert_allclose(pose_array(rig.bench.targets[-1].pose), MEASURED)
    rig.spin_for(0.4)
    assert len(rig.bench.targets) == count, "silence after the hold"
    assert rig.bench.sources().count(ExecutedAction.HOLD) == 1


def test_gate_acts_holds_and_is_released(gate: tuple[Any, Driven, Statuses]) -> None:
    rig, driven, statuses = gate
    rig.spin_for(0.3)
    assert not rig.bench.targets, "silent without an episode"
    run_some(rig, driven)
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
    driven.start_episode()
    rig.until(lambda: len(rig.bench.targets) > count, what="motion after the release")


@pytest.mark.parametrize(
    ("what", "reason"), [("acting", "latched: no action from policy"), ("observing", "latched: no observation")]
)
def test_gate_latches_when_policy_or_observer_dies(gate: tuple[Any, Driven, Statuses], what: str, reason: str) -> None:
    rig, driven, statuses = gate
    run_some(rig, driven, 12)  # past the grace of the start
    setattr(driven, what, False)
    held_once(rig)
    rig.until(lambda: statuses.newest("gate").startswith(reason), what=reason)


def test_gate_lets_a_person_override_within_one_tick(gate: tuple[Any, Driven, Statuses]) -> None:
    rig, driven, statuses = gate
    run_some(rig, driven)
    before = len(rig.bench.executed)
    action = to_msg.floats([0, 1, 0, 0, 0, 0])
    push = TeleopAction(action=action, active=True, source=TeleopAction.HUMAN)
    driven.teleop_out.publish(push)  # stamp 0: as one that a latched topic kept
    rig.until(lambda: int(statuses.value("gate", "stale_teleop")) == 1, what="old input is counted")
    assert ExecutedAction.HUMAN not in rig.bench.sources()[before:]
    before = len(rig.bench.executed)
    push.header.stamp = to_msg.time(driven.now_ns())
    driven.teleop_out.publish(push)
    sent_s = monotonic()
    rig.until(lambda: ExecutedAction.HUMAN in rig.bench.sources()[before:], 2.0)
    first_human = rig.bench.sources().index(ExecutedAction.HUMAN)
    assert first_human - before <= 2  # one was on its way, one is the tick that the push waits for
    rig.until(lambda: len(rig.bench.targets) > first_human, what="its target")
    np.testing.assert_allclose(pose_array(rig.bench.targets[first_human].pose)[1], -0.015, atol=1e-9)
    rig.until(lambda: rig.bench.sources()[-1] == ExecutedAction.POLICY, 2.0, "release")
    assert monotonic() - sent_s > 0.15  # an upper bound would time the machine: ticks are counted instead
    assert rig.bench.sources().count(ExecutedAction.HUMAN) <= 4  # a push counts for 0.2 s


def test_gate_names_a_second_publisher(gate: tuple[Any, Driven, Statuses]) -> None:
    rig, driven, statuses = gate
    rogue = Node("rogue", context=rig.context, use_global_arguments=False)
    publisher = rogue.create_publisher(PoseStamped, "/target_pose", TARGET)
    expected = "latched: /target_pose: second publisher /rogue: stop it, the gate must be the only one"
    rig.until(lambda: statuses.newest("gate") == expected, what=expected)
    driven.start_episode()
    rig.spin_for(0.3)
    assert ExecutedAction.POLICY not in rig.bench.sources()
    assert not rig.call(Hold, "gate/hold", Hold.Request(hold=False)).success
    rogue.destroy_publisher(publisher)
    rogue.destroy_node()
    rig.until(lambda: rig.call(Hold, "gate/hold", Hold.Request(hold=False)).success, what="release")


def test_gate_is_silent_while_inactive_and_comes_back(gate: tuple[Any, Driven, Statuses]) -> None:
    rig, driven, statuses = gate
    run_some(rig, driven)
    request = ChangeState.Request()
    request.transition.id = Transition.TRANSITION_DEACTIVATE
    assert rig.call(ChangeState, "gate/change_state", request).success
    held_once(rig)
    rig.until(lambda: statuses.newest("gate") == "inactive", what="inactive")
    request.transition.id = Transition.TRANSITION_ACTIVATE
    assert rig.call(ChangeState, "gate/change_state", request).success
    rig.bench.executed.clear()
    run_some(rig, driven)


def test_gate_counts_bad_actions_and_sends_the_last_pose_on_ctrl_c(gate: tuple[Any, Driven, Statuses]) -> None:
    rig, driven, statuses = gate
    rig.bench.policy = lambda _stamp: [float("nan")] * 6
    driven.start_episode()
    rig.until(lambda: statuses.newest("gate").startswith("latched: no action from policy"), what="latch")
    assert int(statuses.value("gate", "rejected_actions")) >= 2
    held_once(rig)
    rig.call(Hold, "gate/hold", Hold.Request(hold=False))
    rig.bench.policy = lambda _stamp: [0.0] * 6
    rig.bench.executed.clear()
    rig.bench.targets.clear()
    run_some(rig, driven)
    code, output = rig.end(rig.process)
    assert code == 0, output
    assert "Traceback" not in output
    held_once(rig)


def test_gate_survives_jumps_of_simulated_time(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(34)
    statuses = Statuses(rig)
    clock_out = rig.bench.create_publisher(ClockMsg, "/clock", 10)
    rig.start("gate", use_sim_time=True)
    driven = Driven(rig)
    driven.offset_ns = 100 * 10**9 - driven.now_ns()  # simulated time starts at 100 s
    steady = Clock(clock_type=ClockType.STEADY_TIME)
    tell = lambda: clock_out.publish(ClockMsg(clock=to_msg.time(driven.now_ns())))  # noqa: E731
    rig.bench.create_timer(0.02, tell, clock=steady)
    run_some(rig, driven, 12)
    driven.offset_ns += 3600 * 10**9  # an hour forward: /clock and stamps together
    count = len(rig.bench.executed)
    rig.until(lambda: len(rig.bench.executed) > count + 3, what="actions after the jump")
    assert ExecutedAction.HOLD not in rig.bench.sources()
    driven.offset_ns -= 3650 * 10**9  # and back behind the start of the episode
    rig.until(lambda: statuses.newest("gate").startswith("latched: no observation"), what="latch")
    held_once(rig)


class Controller:
    """A node with the name and the parameter of crisp's controller, and the robot's description; real services."""

    def __init__(self, rig: Any, end_effector_frame: str) -> None:
        self.rig = rig
        self.node = Node("cartesian_impedance_controller", context=rig.context, use_global_arguments=False)
        self.node.declare_parameter("end_effector_frame", end_effector_frame)
        self._description = self.node.create_publisher(String, "/robot_description", LATCHED)
        self._description.publish(String(data=FR3_URDF))
        rig.executor.add_node(self.node)

    def close(self) -> None:
        self.rig.executor.remove_node(self.node)
        self.node.destroy_node()


def test_gate_latches_until_the_controlled_frame_is_the_measured_one(make_rig: Callable[..., Any]) -> None:
    """Desk measures the hand's tcp, the controller moves the flange: every target would be 103 mm off."""
    rig = make_rig(176)
    statuses = Statuses(rig)
    rig.start("gate", controller="cartesian_impedance_controller")
    driven = Driven(rig)
    driven.measured, driven.joints = READY_POSE, READY_Q
    expected = "latched: /cartesian_impedance_controller: does not run: its parameter end_effector_frame is not known"
    rig.until(lambda: statuses.newest("gate") == expected, what=expected)
    wrong = Controller(rig, "fr3_link8")
    expected = "latched: the measured pose is not that of the controller's end_effector_frame fr3_link8: 103.4 mm"
    rig.until(lambda: statuses.newest("gate").startswith(expected), what=expected)
    driven.start_episode()
    answer = rig.call(Hold, "gate/hold", Hold.Request(hold=False))
    assert not answer.success and answer.message.startswith("still latched: the measured pose is not that of")
    assert ExecutedAction.POLICY not in rig.bench.sources()
    wrong.close()


def test_gate_acts_when_the_controlled_frame_is_the_measured_one(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(177)
    statuses = Statuses(rig)
    controller = Controller(rig, "fr3_hand_tcp")
    rig.start("gate", controller="cartesian_impedance_controller")
    driven = Driven(rig)
    driven.measured, driven.joints = READY_POSE, READY_Q
    rig.until(lambda: statuses.newest("gate") == "ready", what="ready")
    driven.start_episode()
    rig.until(lambda: ExecutedAction.POLICY in rig.bench.sources(), what="actions")
    controller.close()


# --- observer -------------------------------------------------------------------------------------


class Drivers:
    """Robot state at 100 Hz and images at 30 Hz, on the wall clock."""

    def __init__(self, rig: Any) -> None:
        self.bench, self.clock = rig.bench, Clock(clock_type=ClockType.SYSTEM_TIME)
        self.state = self.images = True
        self.changes: dict[str, Any] = {}
        self.replaced: dict[Any, tuple[Any, float]] = {}  # publisher -> what it sends instead, late by [s]
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.bench.create_timer(0.01, self._on_state, clock=steady)
        self.bench.create_timer(1 / 30, self._on_image, clock=steady)

    def now_ns(self) -> int:
        return int(self.clock.now().nanoseconds)

    def _on_state(self) -> None:
        if self.state:
            self.bench.publish_state(self.now_ns(), without=self.replaced)
        for publisher, (message, late_s) in self.replaced.items():
            if not isinstance(message, bytes):
                message.header = to_msg.header(self.now_ns() - round(late_s * 1e9), message.header.frame_id)
            publisher.publish(message)

    def _on_image(self) -> None:
        if self.images and self.bench.image_out not in self.replaced:
            self.bench.publish_image(self.now_ns(), **self.changes)


def test_observer_keeps_its_cadence_and_names_what_is_wrong(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(35)
    statuses = Statuses(rig)
    process = rig.start("observer")
    drivers = Drivers(rig)
    times: list[float] = []
    rig.bench.create_subscription(Observation, "observation", lambda _m: times.append(monotonic()), STREAM)
    rig.until(lambda: len(times) >= 25, what="observations")
    assert abs(float(np.median(np.diff(times[3:]))) - 0.1) < 0.01
    seen = rig.bench.observations[-1]
    assert seen.header.frame_id == "base"
    assert decode_jpeg(bytes(seen.images[0].data)).shape == (64, 64, 3)
    stamps = [stamp_ns(o.header.stamp) for o in rig.bench.observations]
    assert stamps == sorted(set(stamps)), "every observation has its own image"

    for changes, expected in (
        ({"encoding": "16UC1"}, "/camera/image: image encoding is '16UC1', expected one of"),
        ({"width": 32}, "/camera/image: image is 32x64, the task expects 64x64"),
    ):
        drivers.changes = changes
        rig.until(lambda e=expected: statuses.newest("observer").startswith(e), what=expected)
        count = len(times)
        rig.spin_for(0.3)
        assert len(times) == count, "nothing rather than garbage"
        drivers.changes = {}
        rig.until(lambda c=count: len(times) > c + 1, what="recovery")
    drivers.state = False
    rig.until(lambda: "pose: last message" in statuses.newest("observer"), what="stale state")
    count = len(times)
    rig.spin_for(0.3)
    assert len(times) == count
    code, output = rig.end(process)
    assert code == 0, output


def test_no_message_ends_the_observer_and_each_fault_is_named(make_rig: Callable[..., Any]) -> None:
    """Malformed CDR on every input, then numbers, names, frames and stamps that cannot be."""
    rig = make_rig(172)
    statuses = Statuses(rig)
    process = rig.start("observer")
    drivers, bench = Drivers(rig), rig.bench
    hand_out = bench.create_publisher(JointState, "/franka_gripper/joint_states", VENDOR_STATE)
    seen = bench.observations
    rig.until(lambda: len(seen) > 2 and hand_out.get_subscription_count(), what="observations")
    assert np.isnan(seen[-1].gripper_width_m) and seen[-1].images[0].header.frame_id == "camera_color_optical_frame"

    def recovered() -> None:
        enough = len(seen) + 3
        rig.until(lambda: len(seen) >= enough, what="recovery")

    for publisher in (bench.pose_out, bench.wrench_out, bench.joints_out, bench.image_out, hand_out):
        drivers.replaced = {publisher: (b"\xff" * 40, 0.0)}
        line = f"{publisher.topic}: message refused: malformed CDR: 40 bytes are no "
        rig.until(lambda e=line: statuses.value("observer", "refused_newest").startswith(e), what=line)
        drivers.replaced = {}
        recovered()

    head = lambda: to_msg.header(drivers.now_ns(), "")  # noqa: E731
    nan_wrench = WrenchStamped(wrench=to_msg.wrench([0, 0, float("nan"), 0, 0, 0]))
    in_base = WrenchStamped(header=to_msg.header(0, "base"))
    late = PoseStamped(pose=to_msg.pose(MEASURED))
    fingers = JointState(name=["fr3_finger_joint1", "fr3_finger_joint2"], position=[1.44, 1.44])
    for publisher, message, late_s, expected in (
        (bench.wrench_out, nan_wrench, 0.0, "wrench: [0, 0, nan, 0, 0, 0], expected finite numbers"),
        (bench.wrench_out, in_base, 0.0, "frame_id is 'base', expected 'hand_tcp'"),
        (bench.joints_out, JointState(), 0.0, "joints are not named, expected joint1 to joint7"),
        (bench.pose_out, late, 0.7, "messages arrive, but by their stamps they are 0.7"),
        (hand_out, fingers, 0.0, "distance of the fingers: 2.88 m, expected 0 to 0.2 m"),
    ):
        drivers.replaced = {publisher: (message, late_s)}
        line = f"{publisher.topic}: {expected}"
        rig.until(lambda e=line: statuses.newest("observer").startswith(e), what=line)
        rig.spin_for(0.05)  # what was on its way
        count = len(seen)
        rig.spin_for(0.25)
        assert len(seen) == count, "nothing rather than garbage"
        drivers.replaced = {}
        if publisher is hand_out:
            hand_out.publish(JointState(header=head(), name=fingers.name, position=[0.01, 0.02]))
        recovered()
    assert seen[-1].gripper_width_m == pytest.approx(0.03)
    rig.until(lambda: np.isnan(seen[-1].gripper_width_m), 5.0, "a width that nobody confirms is unknown")
    assert int(statuses.value("observer", "refused")) >= 5
    assert rig.end(process)[0] == 0


def test_observer_names_a_clock_that_does_not_run(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(173)
    statuses = Statuses(rig)
    rig.start("observer", use_sim_time=True)
    Drivers(rig)
    expected = "the clock does not run: use_sim_time is true and nothing publishes /clock"
    rig.until(lambda: expected in statuses.newest("observer"), what=expected)
    assert not rig.bench.observations


# --- teleop and gripper ---------------------------------------------------------------------------


def test_teleop_replays_a_twist_stream_and_reports_silence(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(36)
    statuses = Statuses(rig)
    twist_out = rig.bench.create_publisher(Twist, "/spacenav/twist", 10)
    joy_out = rig.bench.create_publisher(Joy, "/spacenav/joy", 10)
    process = rig.start("teleop", override_button=0)
    rig.until(lambda: len(rig.bench.teleop) > 2, what="teleop_action at the control rate")
    assert not any(t.active for t in rig.bench.teleop)
    for value in [0.0, 0.003, 0.2, 0.4, -2.0]:  # a replayed stream
        twist_out.publish(to_msg.twist([value, 0, 0, 0, 0, 0]))
        wanted, is_active = np.float32(max(value, -1.0) if value != 0.003 else 0.0), abs(value) > 0.02
        rig.until(
            lambda w=wanted, a=is_active: rig.bench.teleop[-1].active is a and rig.bench.teleop[-1].action[0] == w,
            2.0,
            f"twist {value}",
        )
    assert rig.bench.teleop[-1].source == TeleopAction.HUMAN
    rig.until(lambda: not rig.bench.teleop[-1].active, 2.0, "a silent driver counts as still")
    joy_out.publish(Joy(buttons=[1, 0]))
    rig.until(lambda: rig.bench.teleop[-1].active, 2.0, "override button")
    rig.until(lambda: not rig.bench.teleop[-1].active, 2.0, "a driver that ended holds no button")
    expected = "/spacenav/twist: no messages: is spacenavd running?"
    rig.until(lambda: statuses.newest("teleop") == expected, 5.0, expected)
    assert rig.end(process)[0] == 0


def test_gripper_commands_a_width_after_the_debounce(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(37, changes={"action": {"gripper": True}})
    widths: list[float] = []
    rig.bench.create_subscription(Float64, "/gripper_width_command", lambda m: widths.append(m.data), TARGET)
    executed = rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    statuses = Statuses(rig)
    rig.start("gripper", debounce_s=0.05)
    rig.until(lambda: statuses.newest("gripper") == "gripper ready", what="ready: an action's publisher and a listener")
    for value in (-1, 1):
        wanted = 0.08 if value > 0 else 0.0

        def act(value: int = value) -> None:
            message = ExecutedAction(executed=to_msg.floats([0, 0, 0, 0, 0, 0, value]), source=ExecutedAction.POLICY)
            message.header.stamp = rig.bench.get_clock().now().to_msg()
            executed.publish(message)

        act()
        rig.spin_for(0.06)  # the debounce
        act()
        rig.until(lambda w=wanted: bool(widths) and widths[-1] == w, what=f"width {wanted}")
    assert widths == [0.0, 0.08]


def test_a_restarted_gripper_does_not_act_on_actions_of_before(make_rig: Callable[..., Any]) -> None:
    """`executed_action` is latched: a late subscriber receives the last ten."""
    rig = make_rig(37, changes={"action": {"gripper": True}})
    widths: list[float] = []
    rig.bench.create_subscription(Float64, "/gripper_width_command", lambda m: widths.append(m.data), TARGET)
    executed = rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    close = ExecutedAction(executed=to_msg.floats([0, 0, 0, 0, 0, 0, -1]), source=ExecutedAction.POLICY)
    close.header.stamp = to_msg.time(rig.bench.get_clock().now().nanoseconds - 2 * 10**9)
    executed.publish(close)
    statuses = Statuses(rig)
    rig.start("gripper")
    rig.until(lambda: statuses.newest("gripper") == "gripper ready", what="ready")
    rig.until(lambda: statuses.value("gripper", "stale_actions") == "1", what="the old action is counted")
    assert not widths


def test_gripper_without_franka_msgs_is_one_line(make_rig: Callable[..., Any]) -> None:
    try:
        import franka_msgs.action  # noqa: F401

        pytest.skip("franka_msgs is installed")
    except ImportError:
        pass
    process = make_rig(37).start("gripper", mode="franka")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert len(output.strip().splitlines()) == 1
    assert "parameter mode: franka needs franka_msgs, which is not installed" in output


@pytest.mark.parametrize("node", ["observer", "gate", "teleop", "gripper", "episode"])
def test_a_malformed_task_is_one_line(make_rig: Callable[..., Any], node: str) -> None:
    rig = make_rig(37)
    rig.task.write_text("name: x\ndefault_object: [\n")
    process = rig.start(node)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert len(output.strip().splitlines()) == 1
    assert "bench.yaml: line 3: not valid YAML" in output


# --- episode --------------------------------------------------------------------------------------


@pytest.fixture
def hardware(make_rig: Callable[..., Any]) -> Iterator[tuple[Any, Driven]]:
    """Gate and episode as on hardware: real time, operator resets, labels."""
    rig = make_rig(38, changes={"reward": {"source": "operator"}})
    rig.start("gate")
    rig.start("episode", reset_mode="operator", run_id="run")
    statuses, driven = Statuses(rig), Driven(rig)
    # The bench listens, too: a gate that is not connected yet would latch for want of observations.
    rig.until(lambda: driven.observation_out.get_subscription_count() > 2, what="gate and episode")
    rig.until(lambda: statuses.newest("gate") == "ready", what="gate ready")
    rig.spin_for(0.3)
    return rig, driven


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


def test_operator_resets_labels_and_only_one_goal_runs(hardware: tuple[Any, Driven]) -> None:
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
    # The second one with the buttons: 0 starts, 1 is a failure.
    count = len(rig.bench.steps)
    rig.spin_for(0.3)
    joy.publish(Joy(buttons=[1, 0]))
    rig.until(lambda: len(rig.bench.steps) > count, what="start by button")
    joy.publish(Joy(buttons=[0, 1]))
    status, result = result_of(rig, handle)
    assert (status, list(result.success)) == (GoalStatus.STATUS_SUCCEEDED, [True, False])
    assert list(result.episode_ids) == ["run/000000", "run/000001"]
    rig.until(lambda: [e.reason for e in rig.bench.events if e.kind == EpisodeEvent.END] == ["label", "label"])


def test_a_latch_truncates_and_stop_on_hold_ends_the_goal(hardware: tuple[Any, Driven]) -> None:
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


def test_an_episode_that_a_latch_interrupted_is_repeated_after_the_release(hardware: tuple[Any, Driven]) -> None:
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
def test_a_frozen_gate_ends_the_goal_and_counts_no_episode(hardware: tuple[Any, Driven], frozen: str) -> None:
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


def test_late_camera_stamps_are_the_cause_that_gate_and_goal_name(hardware: tuple[Any, Driven]) -> None:
    rig, driven = hardware
    handle = send(rig, episodes=3, stop_on_hold=True)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 4, what="steps")
    driven.offset_ns = -700_000_000
    status, result = result_of(rig, handle)
    assert (status, result.episodes) == (GoalStatus.STATUS_ABORTED, 0)
    assert result.message.startswith("the gate latched: no usable observation for 0.")
    assert "observations are 0.7" in result.message and "s old by their stamps, limit 0.20 s" in result.message


def test_a_goal_names_a_clock_that_does_not_run(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(174)
    rig.start("episode", use_sim_time=True, ready_timeout_s=0.5)
    status, result = result_of(rig, send(rig, episodes=1))
    assert (status, result.episodes) == (GoalStatus.STATUS_ABORTED, 0)
    assert result.message == ("not ready: the clock does not run: use_sim_time is true and nothing publishes /clock")


def test_a_goal_names_what_the_observer_reports_when_no_observation_comes(make_rig: Callable[..., Any]) -> None:
    """Two cameras, of which one is published: "no observation after the reset" said nothing."""
    camera = {"topic": "camera/image", "width": 64, "height": 64, "image_size": 64}
    rig = make_rig(175, changes={"cameras": {"wrist": camera, "front": {**camera, "topic": "front/image"}}})
    rig.bench.create_publisher(ExecutedAction, "executed_action", STREAM)
    rig.start("observer")
    rig.start("episode", needs="['']")
    drivers = Drivers(rig)
    status, result = result_of(rig, send(rig, episodes=1))
    assert drivers.images and (status, result.episodes) == (GoalStatus.STATUS_ABORTED, 0)
    assert result.message == "no observation after the reset: front: nothing received (/front/image)"


def test_cancel_truncates_and_the_result_comes_after_the_last_step(hardware: tuple[Any, Driven]) -> None:
    rig, _ = hardware
    handle = send(rig, episodes=5)
    confirm_reset(rig)
    rig.until(lambda: len(rig.bench.steps) >= 2, what="steps")
    rig.until(handle.cancel_goal_async().done, what="cancel")
    status, result = result_of(rig, handle)
    assert (status, result.episodes, list(result.success)) == (GoalStatus.STATUS_CANCELED, 0, [])
    assert result.message == "cancelled after 0 of 5 episodes"
    rig.until(lambda: rig.bench.steps[-1].is_last and rig.bench.steps[-1].truncated, what="last step")
