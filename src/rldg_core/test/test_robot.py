"""Robot profiles: accepted values, replacement of placeholders, and mistakes refused with file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.errors import UserError
from rldg_core.robot import GAIN_PLACEHOLDERS, Robot, driver_node, load_robot
from rldg_core.task import CameraConfig

ROBOTS = Path(__file__).parents[2] / "rldg_bringup" / "config" / "robots"
GAINS = {name: float(number) for names in GAIN_PLACEHOLDERS.values() for number, name in enumerate(names, 1)}
KNOWN: dict[str, Any] = {
    "namespace": "",
    "logger_prefix": "",
    "load_gripper": True,
    "twist": "twist",
    "twist_type": "Twist",
    "twist_stamped": False,
    **GAINS,
}


def load(path: Path, values: dict[str, Any] | None = None, has_gripper: bool = True) -> Robot:
    return load_robot(path, values or {}, KNOWN, has_gripper)


def changed(tmp_path: Path, key: str, value: Any) -> Path:
    """Return fr3_ros with one key, such as `topics.pose.type`, replaced, or removed for the value `...`."""
    data = yaml.safe_load((ROBOTS / "fr3_ros.yaml").read_text())
    part: Any = data
    *parents, last = key.split(".")
    for name in parents:
        part = part[int(name)] if isinstance(part, list) else part[name]
    index = int(last) if isinstance(part, list) else last
    if value is ...:
        del part[index]
    else:
        part[index] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("path", sorted(ROBOTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_robot_in_the_repository_is_valid(path: Path) -> None:
    assert load(path).name == path.stem


def test_simulated_robot_has_the_topics_of_the_real_one() -> None:
    simulated, real = (load(ROBOTS / f"{name}.yaml").profile for name in ("simulated", "fr3_ros"))
    for part in ("joints", "topics", "finger_names", "finger_topic"):
        assert getattr(simulated, part) == getattr(real, part)
    # The real profile takes the tcp frame under any prefix; the cell publishes the one of an arm without arm_prefix.
    assert simulated.frames.base == real.frames.base
    assert simulated.frames.tcp == f"{real.joints[0].removesuffix('joint1')}{real.frames.tcp}"


def test_placeholders_take_values_arguments_and_gains() -> None:
    profile = load(ROBOTS / "fr3_ros.yaml", {"robot_type": "fp3", "arm_prefix": "left"}).profile
    assert profile.joints[6] == "left_fp3_joint7"
    (include,) = profile.drivers.includes
    controller = include.files["controllers_yaml"]["/**"]["cartesian_impedance_controller"]["ros__parameters"]
    assert controller["joints"] == list(profile.joints)
    assert controller["end_effector_frame"] == "left_fp3_hand_tcp"
    assert controller["task"]["k_pos_x"] == GAINS["compliant.stiffness"], (
        "a number, since the text is a single placeholder"
    )
    assert controller["task"]["error_clip"]["rz"] == GAINS["compliant.error_clip_rad"]
    without = load(ROBOTS / "fr3_ros.yaml", has_gripper=False).profile
    assert without.gripper.kind == "none" and without.values["end_effector_frame"] == "fr3_link8"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("joints", ["a", "b"], "joints.2: Field required"),
        ("joints", ["a"] * 7, "joint a: there twice"),
        (
            "topics.pose.type",
            "geometry_msgs/msg/Pose",
            "topics.pose.type: Input should be 'geometry_",
        ),
        ("topics.pose.qos", "sometimes", "topics.pose.qos: Input should be 'best_effort' or 'reliable'"),
        ("topics.pose.topic", "two words", "topics.pose.topic: String should match"),
        ("topics.target.qos", "best_effort", "topics.target.qos: Input should be 'reliable'"),
        ("topics.wrench", ..., "topics.wrench: Field required"),
        ("topics.speed", "x", "topics.speed: Extra inputs are not permitted"),
        ("gripper.kind", "claw", "gripper: Input tag 'claw'"),
        ("gripper", {"kind": "width_topic"}, "gripper.width_topic.joints: Field required"),
        ("command.stop", "power_off", "command.stop: Input should be 'measured_pose'"),
        ("command.gains.precise", "at_start", "command.gains.precise: at_start, but nothing in drivers has {precise."),
        (
            "command.gains.compliant",
            "driver",
            "command.gains.compliant: driver, but a driver has {compliant.",
        ),
        ("simulated", True, "the simulated cell takes the place of drivers"),
        ("frames.base", "{arms}", "frames.base: unknown placeholder 'arms', expected "),
        ("drivers.nodes.0.arguments", ["{width}"], "drivers.nodes.0.arguments.0: unknown placeholder 'width'"),
        ("camera.driver", ..., "camera: driver and publishes: expected both, or neither"),
        ("values", [1], "values: expected a mapping, got list"),
        ("mouse.twist.type", "geometry_msgs/msg/Wrench", "mouse.twist.type: Input should be"),
    ],
)
def test_mistake_is_refused_with_file_and_key(tmp_path: Path, key: str, value: Any, expected: str) -> None:
    path = changed(tmp_path, key, value)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("gain", sorted(GAIN_PLACEHOLDERS["compliant"]))
def test_gain_that_reaches_no_driver_is_refused(tmp_path: Path, gain: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((ROBOTS / "fr3_ros.yaml").read_text().replace(f'"{{{gain}}}"', "1.0"))
    with pytest.raises(UserError, match=rf"at_start, but nothing in drivers has \{{{gain}\}}"):
        load(path)


def test_value_unknown_to_the_robot_is_refused() -> None:
    with pytest.raises(UserError, match="argument robot_ip: robot simulated has no such value, expected none"):
        load(ROBOTS / "simulated.yaml", {"robot_ip": "10.0.0.1"})
    with pytest.raises(UserError, match="argument load_gripper: the gripper of robot simulated is always mounted"):
        load(ROBOTS / "simulated.yaml", has_gripper=False)


@pytest.mark.parametrize(
    ("topic", "namespace", "name"),
    [
        ("/camera/camera/color/image_raw", "/camera", "camera"),
        ("/left/camera/side/color/image_rect_raw", "/left/camera", "side"),
        ("/side/color/image_raw", "", "side"),
        ("/usb_cam/image_raw", None, None),
        ("/color/image_raw", None, None),
    ],
)
def test_camera_driver_follows_from_its_topic(topic: str, namespace: str | None, name: str | None) -> None:
    camera = CameraConfig(topic=topic, width=848, height=480, device="123")
    node = driver_node(camera, topic, load(ROBOTS / "fr3_ros.yaml").profile.camera)
    if name is None:
        assert node is None, "another driver publishes the topic"
        return
    assert node is not None and (node.namespace, node.name) == (namespace, name)
    assert node.parameters["depth_module.color_profile"] == "848x480x30"
    assert node.parameters["serial_no"] == "_123", "a text, even where launch converts texts to numbers"


def keys(value: Any, prefix: str = "") -> list[str]:
    """Return every key of a tree, such as `drivers.nodes.0.package`."""
    if not isinstance(value, (dict, list)):
        return []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    named = [(f"{prefix}{name}", item) for name, item in items if "." not in str(name)]
    return [key for name, item in named for key in (name, *keys(item, f"{name}."))]


KEYS = keys(yaml.safe_load((ROBOTS / "fr3_ros.yaml").read_text()))
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=12), st.lists(st.text(max_size=3), max_size=2)
)


@given(key=st.sampled_from(KEYS), value=VALUES)
@settings(max_examples=60, deadline=None)
def test_any_value_is_accepted_or_refused_with_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    path = changed(tmp_path_factory.getbasetemp(), key, value)
    line = f"{path}: taken"
    try:
        load(path)
    except UserError as error:
        line = str(error)
    assert line.startswith(f"{path}: ") and "\n" not in line
