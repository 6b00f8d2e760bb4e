"""A robot and a camera are added from a folder outside the repository, without an edit of our files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

from rldg_bringup import doctor
from rldg_bringup.arguments import StackArguments, arguments_from_text
from rldg_bringup.declaration import Stack
from rldg_bringup.runner import running_stack, unique_names
from rldg_bringup.stack import insertion_stack, robot_stack
from rldg_core.errors import UserError

SHARE = Path(get_package_share_directory("rldg_bringup"))

GEN3 = """
description: seven-axis arm with a parallel gripper of its own
simulated: false
values: {robot_ip: 192.168.1.10}
joints: [joint_1, joint_2, joint_3, joint_4, joint_5, joint_6, joint_7]
frames: {base: base_link, tcp: tool_frame}
topics:
  pose: {topic: arm/pose, type: geometry_msgs/msg/PoseStamped, qos: reliable}
  wrench: {topic: arm/wrench, type: geometry_msgs/msg/WrenchStamped, qos: reliable}
  joints: {topic: joint_states, type: sensor_msgs/msg/JointState, qos: reliable}
  target: {topic: arm/target, type: geometry_msgs/msg/PoseStamped, qos: reliable}
gripper:
  kind: width_topic
  joints: [left_finger, right_finger]
  states: {topic: joint_states, type: sensor_msgs/msg/JointState, qos: reliable}
  command: {topic: gripper/width, type: std_msgs/msg/Float64, qos: reliable}
command:
  gains: {compliant: at_start, precise: none}
  stop: measured_pose
camera: {qos: best_effort}
mouse:
  twist: {topic: mouse/twist, type: geometry_msgs/msg/TwistStamped, qos: reliable}
  joy: {topic: mouse/joy, type: sensor_msgs/msg/Joy, qos: reliable}
drivers:
  nodes:
    - package: my_arm
      executable: driver
      name: arm
      parameters:
        ip: "{robot_ip}"
        gains:
          - "{compliant.stiffness}"
          - "{compliant.damping}"
          - "{compliant.rotational_stiffness}"
          - "{compliant.rotational_damping}"
          - "{compliant.error_clip_m}"
          - "{compliant.error_clip_rad}"
"""


def described(stack: Stack) -> dict[str, Any]:
    return {f"{node.namespace.rstrip('/')}/{node.name}": dict(node.parameters) for node in stack.nodes}


GAINS = ("stiffness", "damping", "rotational_stiffness", "rotational_damping", "error_clip_m", "error_clip_rad")


@pytest.fixture
def own_gains(tmp_path: Path) -> Path:
    """Write a task for the robot with twelve different gains, none of them a default."""
    task = yaml.safe_load((SHARE / "config" / "tasks" / "insertion_franka.yaml").read_text())
    numbers = iter(range(1, 13))
    task["impedance"] = {mode: {gain: next(numbers) / 8 for gain in GAINS} for mode in ("compliant", "precise")}
    path = tmp_path / "own_gains.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


@pytest.fixture
def gen3(tmp_path: Path) -> str:
    path = tmp_path / "gen3.yaml"
    path.write_text(GEN3)
    return str(path)


@pytest.fixture
def two_cameras(tmp_path: Path) -> Path:
    task = yaml.safe_load((SHARE / "config" / "tasks" / "insertion_franka.yaml").read_text())
    task["cameras"]["wrist"]["device"] = "111"
    task["cameras"]["side"] = {"topic": "camera/side/color/image_raw", "width": 848, "height": 480, "device": "222"}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


def test_robot_is_added_with_one_file(gen3: str) -> None:
    arguments = arguments_from_text(
        {"robot": gen3, "task": "pick_and_place", "namespace": "left", "robot_ip": "10.0.0.1"}
    )
    nodes = described(insertion_stack(arguments, SHARE))
    assert nodes["/left/arm"] == {"ip": "10.0.0.1", "gains": [2000.0, 89.0, 150.0, 7.0, 0.01, 0.05]}
    observer = nodes["/left/rldg/observer"]
    assert observer["pose_topic"] == "/left/arm/pose"
    assert observer["joint_names"] == [f"joint_{number}" for number in range(1, 8)]
    assert observer["finger_names"] == ["left_finger", "right_finger"]
    assert (observer["base_frame"], observer["tcp_frame"]) == ("base_link", "tool_frame")
    assert (observer["pose_qos"], observer["image_qos"]) == ("reliable", "best_effort")
    gate = nodes["/left/rldg/gate"]
    assert (gate["target_topic"], gate["base_frame"]) == ("/left/arm/target", "base_link")
    assert "controller" not in gate
    assert nodes["/left/rldg/gripper"]["gripper_command_topic"] == "/left/gripper/width"
    assert nodes["/left/rldg/teleop"]["twist_topic"] == "/left/mouse/twist"
    assert nodes["/left/rldg/teleop"]["twist_stamped"] is True
    assert nodes["/left/rldg/episode"]["joy_topic"] == "/left/mouse/joy"
    assert "franka" not in json.dumps(nodes) and "spacenav" not in json.dumps(nodes)
    (arm,) = robot_stack(arguments, SHARE).nodes
    assert described(insertion_stack(arguments, SHARE))["/left/arm"] == dict(arm.parameters)


def test_robot_without_a_gripper_refuses_tasks_that_need_one(tmp_path: Path) -> None:
    profile = yaml.safe_load(GEN3)
    profile["gripper"] = {"kind": "none"}
    path = tmp_path / "bare.yaml"
    path.write_text(yaml.safe_dump(profile))
    with pytest.raises(UserError, match="argument robot: bare has none, but task pick_and_place moves the gripper"):
        insertion_stack(StackArguments(robot=str(path), task="pick_and_place"), SHARE)
    observer = insertion_stack(StackArguments(robot=str(path), task="insertion"), SHARE).node("observer")
    assert "gripper_joint_topic" not in observer.parameters


def test_simulated_cell_has_the_names_of_its_profile(tmp_path: Path) -> None:
    profile = yaml.safe_load((SHARE / "config" / "robots" / "simulated.yaml").read_text())
    profile["joints"] = [f"my_joint{number}" for number in range(1, 8)]
    profile["frames"] = {"base": "my_base", "tcp": "my_tcp"}
    profile["gripper"] |= {"joints": ["left", "right"]}
    profile["topics"]["pose"]["topic"] = "my/pose"
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(profile))
    nodes = described(insertion_stack(StackArguments(robot=str(path)), SHARE))
    for node in (nodes["/rldg/cell"], nodes["/rldg/observer"]):
        assert (node["joint_names"], node["finger_names"]) == (profile["joints"], ["left", "right"])
        assert (node["base_frame"], node["tcp_frame"], node["pose_topic"]) == ("my_base", "my_tcp", "/my/pose")


def test_sim_argument_is_an_alias_of_the_robot() -> None:
    for sim, robot, task in ((True, "simulated", "insertion"), (False, "fr3_ros", "insertion_franka")):
        stacks = [insertion_stack(StackArguments(task=task, **one), SHARE) for one in ({"sim": sim}, {"robot": robot})]  # type: ignore[arg-type]
        assert stacks[0] == stacks[1]
    assert insertion_stack(StackArguments(), SHARE) == insertion_stack(StackArguments(robot="simulated"), SHARE)


def test_topic_arguments_override_the_profile() -> None:
    topics = {"pose_topic": "a/pose", "target_topic": "/b/target", "joy_topic": "c/joy"}
    stack = insertion_stack(StackArguments(robot="fr3_ros", task="insertion_franka", **topics), SHARE)  # type: ignore[arg-type]
    assert stack.node("observer").parameters["pose_topic"] == "/a/pose"
    assert stack.node("gate").parameters["target_topic"] == "/b/target"
    assert stack.node("episode").parameters["joy_topic"] == "/c/joy"


def test_camera_is_added_with_one_entry_of_the_task(two_cameras: Path) -> None:
    arguments = StackArguments(
        robot="fr3_ros", task=str(two_cameras), namespace="left", record=True, record_topics="vendor"
    )
    stack = insertion_stack(arguments, SHARE)
    drivers = {node.name: node for node in stack.nodes if node.package == "realsense2_camera"}
    assert {(node.namespace, name) for name, node in drivers.items()} == {
        ("/left/camera", "camera"),
        ("/left/camera", "side"),
    }
    assert drivers["side"].parameters["depth_module.color_profile"] == "848x480x30"
    assert [drivers[name].parameters["serial_no"] for name in ("camera", "side")] == ["_111", "_222"]
    assert "/left/camera/side/color/image_raw" in stack.node("recorder").parameters["topics"]
    assert "image_topic" not in stack.node("observer").parameters, "the task names the topic of each camera"


def test_single_camera_starts_a_single_driver() -> None:
    stack = insertion_stack(StackArguments(sim=False, task="insertion_franka"), SHARE)
    (driver,) = [node for node in stack.nodes if node.package == "realsense2_camera"]
    assert (driver.namespace, driver.name) == ("/camera", "camera")
    own = StackArguments(sim=False, task="insertion_franka", image_topic="usb_cam/image_raw")
    assert not [n for n in insertion_stack(own, SHARE).nodes if n.package == "realsense2_camera"]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (("", "222"), "cameras.wrist.device: is empty, expected the serial number"),
        (("222", "222"), "cameras.side.device: '222' is that of another camera, expected the serial number"),
    ],
)
def test_cameras_with_the_same_device_are_refused(two_cameras: Path, devices: tuple[str, str], message: str) -> None:
    task = yaml.safe_load(two_cameras.read_text())
    for name, device in zip(("wrist", "side"), devices, strict=True):
        task["cameras"][name]["device"] = device
    two_cameras.write_text(yaml.safe_dump(task))
    with pytest.raises(UserError, match=message):
        insertion_stack(StackArguments(robot="fr3_ros", task=str(two_cameras)), SHARE)


def test_device_of_a_camera_does_not_change_the_configuration_hash(two_cameras: Path) -> None:
    from rldg_core.task import load_task

    before = load_task(two_cameras)
    task = yaml.safe_load(two_cameras.read_text())
    for camera in task["cameras"].values():
        del camera["device"]
    two_cameras.write_text(yaml.safe_dump(task))
    assert load_task(two_cameras).config_hash() == before.config_hash()


def test_nodes_of_the_same_name_have_separate_parameter_files(two_cameras: Path) -> None:
    task = yaml.safe_load(two_cameras.read_text())
    task["cameras"]["side"]["topic"] = "side/camera/color/image_raw"
    two_cameras.write_text(yaml.safe_dump(task))
    stack = insertion_stack(StackArguments(robot="fr3_ros", task=str(two_cameras)), SHARE)
    names = unique_names(stack.nodes)
    assert len(names) == len(stack.nodes)
    assert {"camera.camera", "side.camera", "gate"} <= set(names)


def test_compliant_gains_of_a_task_reach_the_controller_file_of_the_stack(own_gains: Path) -> None:
    for declare in (robot_stack, insertion_stack):
        (include,) = declare(StackArguments(robot="fr3_ros", task=str(own_gains)), SHARE).includes
        (text,) = include.files.values()
        task = yaml.safe_load(text)["/**"]["cartesian_impedance_controller"]["ros__parameters"]["task"]
        expected: dict[str, object] = {}
        for axis in "xyz":
            expected |= {f"k_pos_{axis}": 1 / 8, f"d_pos_{axis}": 2 / 8, f"k_rot_{axis}": 3 / 8, f"d_rot_{axis}": 4 / 8}
        clip = dict.fromkeys("xyz", 5 / 8) | dict.fromkeys(("rx", "ry", "rz"), 6 / 8)
        assert task == {**expected, "error_clip": clip}


def test_each_gain_that_is_not_applied_is_reported(own_gains: Path, gen3: str, tmp_path: Path) -> None:
    precise = "task insertion_franka: impedance.precise is not applied: robot fr3_ros never switches to precise gains "
    precise += "(command.gains.precise: none), resets are compliant"
    compliant = "task insertion_franka: impedance.compliant is not applied: "
    controllers = tmp_path / "mine.yaml"
    controllers.write_text("/**: {}")
    arguments = StackArguments(robot="fr3_ros", task=str(own_gains))
    for declare in (robot_stack, insertion_stack):
        assert declare(arguments, SHARE).notices == (precise,)
        given = declare(replace(arguments, controllers_file=str(controllers)), SHARE).notices
        assert given == (f"{compliant}the controller takes the gains in controllers_file {controllers}", precise)
    apart = insertion_stack(replace(arguments, drivers=False), SHARE).notices
    running = "drivers:=false, the running drivers keep the gains of the task that they were started with"
    assert apart == (compliant + running, precise)
    both = yaml.safe_load(GEN3)
    both["command"]["gains"]["precise"] = "driver"
    Path(gen3).write_text(yaml.safe_dump(both))
    assert robot_stack(StackArguments(robot=gen3), SHARE).notices == ()
    assert insertion_stack(StackArguments(), SHARE).notices == ()


def test_notices_are_printed_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = insertion_stack(StackArguments(robot="fr3_ros", task="insertion_franka"), SHARE)
    with running_stack(replace(declared, nodes=(), includes=()), tmp_path):
        assert capsys.readouterr().err == "".join(f"rldg: {notice}\n" for notice in declared.notices) != ""


def test_doctor_names_the_missing_drivers(gen3: str) -> None:
    findings = doctor.robot_findings(gen3)
    assert findings[0].status is doctor.Status.OK and "compliant at_start, precise none" in findings[0].found
    assert findings[1].found == "the precise gains of a task are never applied"
    assert (findings[2].status, findings[2].found) == (
        doctor.Status.MISSING,
        "driver package my_arm is not installed",
    )
    (only,) = doctor.robot_findings("simulated")
    assert only.status is doctor.Status.OK
    assert any("error_recovery" in finding.remedy for finding in doctor.robot_findings("fr3_ros"))
    with pytest.raises(UserError, match="unknown robot 'fr4'"):
        doctor.robot_findings("fr4")
