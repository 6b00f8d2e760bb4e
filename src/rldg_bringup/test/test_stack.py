"""The declaration of the stacks: arguments, topics, and that every declared node is installed."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import Field, fields
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_bringup.arguments import StackArguments, arguments_from_pairs, arguments_from_text
from rldg_bringup.runner import executable_path, parameter_file
from rldg_bringup.stack import NODES, insertion_stack, robot_stack
from rldg_core.errors import UserError
from rldg_core.files import sha256_hex
from rldg_core.task import load_task

SHARE = Path(get_package_share_directory("rldg_bringup"))
ISSUE_ARGUMENTS = {
    "namespace",
    "task",
    "sim",
    "use_sim_time",
    "policy",
    "checkpoint",
    "record",
    "bag_dir",
    "params_file",
    "autostart",
    "log_level",
    "robot_ip",
    "image_topic",
    "target_topic",
}


def test_documented_arguments_exist() -> None:
    assert {f.name for f in fields(StackArguments)} >= ISSUE_ARGUMENTS
    assert all(f.metadata.get("help") for f in fields(StackArguments))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"colour": "red"}, "unknown argument 'colour'"),
        ({"sim": "maybe"}, "argument sim: expected true or false, got 'maybe'"),
        ({"seed": "x"}, "argument seed: expected an integer"),
        ({"patience_s": "long"}, "argument patience_s: expected a number"),
        ({"task": "dance"}, "unknown task 'dance'"),
        ({"task": "insertion:banana"}, "default_object 'banana'"),
        ({"operator": "robot"}, "argument operator"),
        ({"sim": "false", "operator": "demonstrate"}, "simulation only"),
        ({"sim": "false", "use_sim_time": "true"}, "argument use_sim_time"),
        ({"teleop": "true", "use_sim_time": "true"}, "argument teleop: a person needs real time"),
        ({"teleop": "true", "operator": "intervene"}, "argument teleop: .*expected operator:=off"),
        ({"learner": "true"}, "argument run_dir"),
        ({"log_level": "loud"}, "argument log_level"),
        ({"params_file": "/nowhere.yaml"}, "no file /nowhere.yaml"),
        ({"record_preset": "fast"}, "argument record_preset: expected none, zstd_fast or zstd_small, got 'fast'"),
        ({"chunks": "some"}, "argument chunks: expected newest, whole or ensemble, got 'some'"),
        ({"control_hz": "-4"}, "argument control_hz: expected 0.0 to 100.0, got -4.0"),
        ({"control_hz": "0.5"}, "task insertion@0.5: control_hz"),
        ({"control_hz": "nan"}, "argument control_hz: expected a finite number, got nan"),
        ({"http_port": "8000", "use_sim_time": "true"}, "argument http_port"),
        ({"http_port": "-1"}, "argument http_port: expected 0 to 65535, got -1"),
        ({"http_port": "70000"}, "argument http_port: expected 0 to 65535, got 70000"),
        ({"record_split_s": "-1"}, "argument record_split_s: expected 0 to 1000000, got -1"),
        ({"seed": "-1"}, "argument seed: expected 0 to 4294967295, got -1"),
        ({"patience_s": "inf"}, "argument patience_s: expected a finite number, got inf"),
        ({"chance_decay": "1.5"}, "argument chance_decay: expected 0.0 to 1.0, got 1.5"),
        ({"robot_ip": "172.16.0.2; reboot"}, "argument robot_ip: expected a name like 172.16.0.2, got"),
        ({"target_topic": "target pose"}, "argument target_topic: expected a name like target_pose, got 'target pose'"),
        ({"namespace": "robot 1"}, "argument namespace: expected prefix of every topic, e.g. robot1, got 'robot 1'"),
        ({"run_id": "a/b"}, "argument run_id: expected prefix of episode ids"),
        ({"checkpoint": "/nowhere"}, "argument checkpoint: no file or folder /nowhere"),
        ({"seed": str(2**32)}, "argument seed: expected 0 to 4294967295, got 4294967296"),
        ({"policy": "compakt"}, "argument policy: unknown policy back-end 'compakt', expected one of compact, hold"),
        ({"preload": "compact,torch"}, "argument preload: unknown policy back-end 'torch', expected one of compact"),
        ({"policy": "compact"}, "argument checkpoint: policy compact: path: expected a checkpoint folder"),
        ({"checkpoint": "/proc"}, "argument checkpoint: policy hold takes no checkpoint, got /proc"),
        ({"policy": "scripted", "checkpoint": "/proc"}, "argument checkpoint: policy scripted takes no checkpoint"),
        ({"policy": "compact", "checkpoint": "/proc"}, "argument checkpoint: /proc/config.json: cannot read: No such"),
        ({"policy": "octo", "checkpoint": "/proc"}, "argument checkpoint: /proc/config.json: cannot read: No such"),
        ({"policy": "openvla", "checkpoint": "/proc"}, "argument checkpoint: /proc/config.json: cannot read: No such"),
        ({"policy": "specialist", "checkpoint": "/proc"}, "argument checkpoint: /proc/config.json: cannot read: No s"),
        ({"record_topics": "a b"}, "argument record_topics: 'a b' is no name of a topic"),
        ({"record_topics": "/tf,,//x"}, "argument record_topics: '//x' is no name of a topic"),
        ({"record": "true", "bag_dir": "/proc/version/bags"}, "argument bag_dir: /proc/version is a file, expected a"),
        ({"watch_dir": "/proc/version"}, "argument watch_dir: /proc/version is a file, expected a folder"),
        ({"params_file": "/proc/version"}, "argument params_file: /proc/version"),
        ({"learner_config": "/proc/version"}, "argument learner_config: /proc/version"),
        ({"recrod": "true"}, "unknown argument 'recrod', expected record"),
        ({"sim": "false", "task": "pick_and_place", "load_gripper": "false"}, "argument load_gripper: false, but task"),
        (
            {"robot": "false"},
            "argument robot: names a robot profile; to start .* or not: drivers:=false",
        ),
        ({"robot": "fr3_ross"}, "unknown robot 'fr3_ross', expected fr3_ros"),
        ({"robot": "fr3_ros", "sim": "true"}, "argument sim: robot fr3_ros is not simulated, expected false"),
        ({"robot": "simulated", "sim": "false"}, "argument sim: robot simulated is simulated, expected true"),
        ({"robot": "fr3_ros", "use_sim_time": "true"}, "argument use_sim_time"),
        ({"robot_ip": "10.0.0.1"}, "argument robot_ip: robot simulated has no such value, expected none"),
        ({"load_gripper": "false"}, "argument load_gripper: the gripper of robot simulated is always mounted"),
        (
            {"sim": "false", "gripper_command_topic": "w"},
            "argument gripper_command_topic: the robot's gripper is",
        ),
    ],
)
def test_bad_arguments_are_refused(values: dict[str, str], expected: str) -> None:
    with pytest.raises(UserError, match=expected.replace("(", r"\(")) as caught:
        insertion_stack(arguments_from_text(values), SHARE)
    assert "\n" not in str(caught.value)


def test_checkpoint_that_does_not_match_the_stack_is_refused_before_the_start(tmp_path: Path) -> None:
    """Only the description of the checkpoint is read: the weights file of this one holds no weights."""
    statistics = b"{}"
    manifest = {
        "backend": "octo",
        "image_size": 256,
        "window": 1,
        "horizon": 4,
        "rate_hz": 10.0,
        "statistics_key": "random",
        "statistics_sha256": sha256_hex(statistics),
        "version": 1,
    }
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "dataset_statistics.json").write_bytes(statistics)
    arguments = StackArguments(policy="openvla", checkpoint=str(tmp_path))
    for change, message in (
        ({}, "backend: a checkpoint of octo, not of openvla"),
        ({"backend": "openvla", "tasks": ["pick"]}, "made for task 'pick', this stack runs 'insertion'"),
        ({"backend": "openvla"}, "dataset_statistics.json: holds no dataset"),
        ({"backend": "gpt"}, "rldg.json: backend: "),
    ):
        (tmp_path / "rldg.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(UserError, match=f"^argument checkpoint: .*{message}"):
            insertion_stack(arguments, SHARE)


def test_back_end_with_a_missing_module_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [entry for group in ("rldg.scenes", "rldg.policies") for entry in entry_points(group=group)]
    missing = EntryPoints([*installed, EntryPoint("gone", "rldg_policy.gone:Policy", "rldg.policies")])
    monkeypatch.setattr("rldg_core.plugins.entry_points", missing.select)
    with pytest.raises(UserError, match=r"^argument policy: policy back-end 'gone' .*no module rldg_policy\.gone"):
        insertion_stack(StackArguments(policy="gone"), SHARE)


def test_checking_checkpoints_does_not_import_torch_or_jax() -> None:
    code = (
        "import sys\nfrom rldg_bringup.arguments import StackArguments\n"
        "from rldg_bringup.stack import insertion_stack\nfrom pathlib import Path\n"
        "from rldg_core.errors import UserError\n"
        "for name in ('hold', 'compact', 'octo', 'openvla', 'specialist'):\n"
        "    try: insertion_stack(StackArguments(policy=name, checkpoint='/proc'), Path(sys.argv[1]))\n"
        "    except UserError: pass\n"
        "print(sorted({'torch', 'jax', 'flax', 'mujoco', 'rclpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(SHARE)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_command_line_starts_without_heavy_packages() -> None:
    """Every `rldg` command and every help text waits for these imports."""
    heavy = ("torch", "jax", "flax", "mujoco", "scipy", "rclpy")
    code = f"import sys, rldg_bringup.cli; print(sorted({set(heavy)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["seed:=1", "seed:=2"], "argument seed: given twice"),
        (["seed=1"], "argument 'seed=1': expected name:=value"),
        (["sedd:=1"], "unknown argument 'sedd', expected seed"),
    ],
)
def test_malformed_arguments_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        arguments_from_pairs(texts)
    assert arguments_from_pairs(["seed:=3", "run_id:=a"]).seed == 3


def test_lock_step_is_used_exactly_with_simulated_time() -> None:
    for use_sim_time in (False, True):
        stack = insertion_stack(StackArguments(use_sim_time=use_sim_time), SHARE)
        ours = [node for node in stack.nodes if node.name != "exporter"]  # it has no parameters
        assert all(n.parameters["lockstep"] is use_sim_time for n in ours)
        assert all(n.parameters["use_sim_time"] is use_sim_time for n in ours)
        # Imports cost ticks in real time only.
        assert (stack.node("policy").parameters["preload"] == [""]) is use_sim_time


def test_misspelt_node_of_a_parameter_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("/rldg/observr: {ros__parameters: {base_frame: world}}")
    with pytest.raises(
        UserError, match=f"^argument params_file: {path}: /rldg/observr: no node 'observr', expected obs"
    ):
        insertion_stack(StackArguments(params_file=str(path)), SHARE)


def test_parameter_file_may_hold_every_node_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(f"/rldg/{name}: {{ros__parameters: {{task_dirs: [a]}}}}" for name in NODES))
    assert {node.name for node in insertion_stack(StackArguments(params_file=str(path)), SHARE).nodes} < set(NODES)


def test_every_node_has_the_task_at_the_requested_rate() -> None:
    stack = insertion_stack(StackArguments(task="insertion:vga", control_hz=4.0), SHARE)
    assert stack.task.period_s == 0.25 and stack.task.default_object == "vga"
    assert {n.parameters["task"] for n in stack.nodes if n.parameters} == {"insertion:vga@4"}
    assert stack.node("policy").parameters["preload"] == ["compact", "octo", "openvla"]


def test_hardware_drivers_replace_the_cell() -> None:
    arguments = StackArguments(sim=False, task="insertion_franka", namespace="left", robot_ip="10.0.0.1")
    stack = insertion_stack(arguments, SHARE)
    names = {n.name for n in stack.nodes}
    assert "cell" not in names
    assert {"camera", "spacenav", "teleop", "spawn_cartesian_impedance"} <= names
    assert stack.includes[0].package == "franka_bringup"
    assert stack.includes[0].arguments["robot_ip"] == "10.0.0.1"
    assert stack.node("gate").parameters["target_topic"] == "/left/target_pose"
    assert stack.node("camera").parameters["depth_module.color_profile"] == "640x480x30"
    assert all(n.namespace.startswith("/left") for n in stack.nodes)


@pytest.mark.parametrize(("stamped", "topic"), [(False, "twist"), (True, "twist_stamped")])
def test_driver_and_teleop_use_the_same_twist_type(stamped: bool, topic: str) -> None:
    arguments = StackArguments(sim=False, task="insertion_franka", namespace="left", twist_stamped=stamped)
    stack = insertion_stack(arguments, SHARE)
    teleop, driver = stack.node("teleop").parameters, stack.node("spacenav")
    assert (teleop["twist_stamped"], teleop["twist_topic"]) == (stamped, f"/left/spacenav/{topic}")
    assert driver.parameters == {"zero_when_static": True, "use_twist_stamped": stamped}
    assert "left.spacenav:=fatal" in driver.arguments, "the name of its logger contains the namespace"


def test_raw_topics_are_recorded_beside_step() -> None:
    plain = insertion_stack(StackArguments(record=True), SHARE).node("recorder").parameters
    assert (plain["topics"], plain["preset"]) == ([""], "zstd_fast")
    arguments = StackArguments(
        record=True, namespace="left", record_topics="joy, vendor,/tf", record_preset="none", record_split_mb=200
    )
    recorder = insertion_stack(arguments, SHARE).node("recorder").parameters
    assert recorder["topics"][0] == "/left/joy"
    assert recorder["topics"][-1] == "/tf"
    assert {"/left/target_pose", "/left/franka_robot_state_broadcaster/current_pose"} <= set(recorder["topics"])
    assert (recorder["preset"], recorder["max_bagfile_size"]) == ("none", 200_000_000)


def test_every_declared_node_is_installed() -> None:
    stack = insertion_stack(
        StackArguments(operator="intervene", learner=True, run_dir="x", record=True, use_sim_time=True), SHARE
    )
    for node in stack.nodes:
        assert executable_path(node.package, node.executable).is_file()
        assert f"/rldg/{node.name}" in yaml.safe_load(parameter_file(node))
    with pytest.raises(UserError, match="not installed"):
        executable_path("no_such_package", "x")
    with pytest.raises(UserError, match="no executable"):
        executable_path("rldg_control", "x")


def controllers(**arguments: object) -> dict[str, Any]:
    stack = robot_stack(StackArguments(sim=False, task="insertion_franka", **arguments), SHARE)  # type: ignore[arg-type]
    parameters: dict[str, Any] = yaml.safe_load(stack.includes[0].files["controllers_yaml"])["/**"]
    return {name: section["ros__parameters"] for name, section in parameters.items()}


def test_controller_has_the_gains_of_the_task() -> None:
    task = controllers()["cartesian_impedance_controller"]["task"]
    gains = load_task(SHARE / "config" / "tasks" / "insertion_franka.yaml").impedance.compliant
    for axis in "xyz":
        assert task[f"k_pos_{axis}"] == gains.stiffness
        assert task[f"d_pos_{axis}"] == gains.damping
        assert task[f"k_rot_{axis}"] == gains.rotational_stiffness
        assert task[f"d_rot_{axis}"] == gains.rotational_damping
        assert task["error_clip"][axis] == gains.error_clip_m
        assert task["error_clip"][f"r{axis}"] == gains.error_clip_rad


def test_controller_manager_has_the_settings_of_franka_ros2() -> None:
    # franka_bringup/config/controllers.yaml of franka_ros2 3.4.0.
    expected = {"update_rate": 1000, "thread_priority": 98, "overruns": {"manage": False, "print_warnings": False}}
    assert expected.items() <= controllers()["controller_manager"].items()
    assert controllers()["franka_robot_state_broadcaster"]["convenience_publish_rate"] == 100


@pytest.mark.parametrize(
    ("arguments", "joint", "frame"),
    [
        ({}, "fr3_joint1", "fr3_hand_tcp"),
        ({"robot_type": "fp3"}, "fp3_joint1", "fp3_hand_tcp"),
        ({"robot_type": "fr3v2", "arm_prefix": "left"}, "left_fr3v2_joint1", "left_fr3v2_hand_tcp"),
        ({"load_gripper": False}, "fr3_joint1", "fr3_link8"),
        ({"end_effector_frame": "tool"}, "fr3_joint1", "tool"),
    ],
)
def test_joints_and_frames_follow_the_arguments(arguments: dict[str, object], joint: str, frame: str) -> None:
    crisp = controllers(**arguments)["cartesian_impedance_controller"]
    assert len(crisp["joints"]) == 7 and crisp["joints"][0] == joint
    assert crisp["end_effector_frame"] == frame
    stack = robot_stack(StackArguments(**arguments), SHARE)  # type: ignore[arg-type]
    given = stack.includes[0].arguments
    assert given["load_gripper"] == str(arguments.get("load_gripper", True)).lower()
    assert (given["robot_type"], given["arm_prefix"]) == (
        arguments.get("robot_type", "fr3"),
        arguments.get("arm_prefix", ""),
    )


def test_arm_can_be_started_separately_from_the_stack() -> None:
    apart = insertion_stack(StackArguments(sim=False, task="insertion_franka", drivers=False), SHARE)
    assert not apart.includes and "spawn_cartesian_impedance" not in {n.name for n in apart.nodes}
    assert {"camera", "spacenav", "gate"} <= {n.name for n in apart.nodes}
    robot = robot_stack(StackArguments(namespace="left"), SHARE)
    assert [n.name for n in robot.nodes] == ["spawn_cartesian_impedance"]
    assert robot.includes[0].arguments["namespace"] == "left"


def test_custom_controllers_file_is_used_unchanged(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("# mine\n")
    stack = robot_stack(StackArguments(controllers_file=str(own)), SHARE)
    assert stack.includes[0].files["controllers_yaml"] == "# mine\n"


@given(st.sampled_from(fields(StackArguments)), st.one_of(st.text(max_size=20), st.floats(), st.integers()))
@settings(max_examples=300, deadline=None)
def test_any_argument_text_is_accepted_or_refused(argument: Field[Any], text: object) -> None:
    with suppress(UserError):
        insertion_stack(arguments_from_text({argument.name: str(text)}), SHARE)
