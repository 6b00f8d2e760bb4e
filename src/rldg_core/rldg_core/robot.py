"""Robot profile: one YAML file per robot says everything that depends on the arm, its gripper and its drivers.

Joints, frames, topics with type and QoS, gripper, SpaceMouse, camera driver, how the arm is commanded, and which
drivers start. Texts may hold `{placeholders}`, which are replaced before the file is validated: the `values` of the
file, what the stack knows (namespace, task, names of the arm) and the gains of the task. A text that is one placeholder
takes the type of its value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rldg_core.configuration import MAX_CONFIGURATION_BYTES, Finite, FrozenModel, read_yaml, validated
from rldg_core.errors import UserError, quoted
from rldg_core.limits import either
from rldg_core.task import CameraConfig, GainsConfig

ARM_JOINTS = 7
"""As many as Observation.joint_positions has."""

TOPIC = r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"
"""Name of a topic, action or namespace, absolute or relative to the namespace of the stack."""

NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
PACKAGE = r"[a-z][a-z0-9_]*"

GAINS = tuple(GainsConfig.model_fields)
MODES = ("compliant", "precise")
GAIN_PLACEHOLDERS = {mode: tuple(f"{mode}.{gain}" for gain in GAINS) for mode in MODES}
CAMERA_PLACEHOLDERS = ("camera_namespace", "camera_node", "width", "height", "device")
"""Of `camera.driver`: namespace and name of the driver's node, and what the task says of the camera."""

Scalar = bool | Annotated[int, Field(ge=-(2**31), lt=2**31)] | Finite | str
Topic = Annotated[str, Field(pattern=rf"^{TOPIC}$")]
Name = Annotated[str, Field(pattern=rf"^{NAME}$")]
Package = Annotated[str, Field(pattern=rf"^{PACKAGE}$")]
Qos = Literal["best_effort", "reliable"]

_VALUE_SECTIONS = ("values", "without_gripper")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")


class PoseTopic(FrozenModel):
    """Measured pose of the tcp in the base frame."""

    topic: Topic
    type: Literal["geometry_msgs/msg/PoseStamped"]
    qos: Qos


class WrenchTopic(FrozenModel):
    """External wrench in the tcp frame."""

    topic: Topic
    type: Literal["geometry_msgs/msg/WrenchStamped"]
    qos: Qos


class JointTopic(FrozenModel):
    """Joint states, by name in any order."""

    topic: Topic
    type: Literal["sensor_msgs/msg/JointState"]
    qos: Qos


class TargetTopic(FrozenModel):
    """Cartesian target of the controller in the base frame. The gate is its only publisher."""

    topic: Topic
    type: Literal["geometry_msgs/msg/PoseStamped"]
    qos: Literal["reliable"]


class WidthTopic(FrozenModel):
    """Gripper width to command [m]."""

    topic: Topic
    type: Literal["std_msgs/msg/Float64"]
    qos: Literal["reliable"]


class TwistTopic(FrozenModel):
    """Motion of the SpaceMouse."""

    topic: Topic
    type: Literal["geometry_msgs/msg/Twist", "geometry_msgs/msg/TwistStamped"]
    qos: Literal["reliable"]


class JoyTopic(FrozenModel):
    """Buttons of the SpaceMouse."""

    topic: Topic
    type: Literal["sensor_msgs/msg/Joy"]
    qos: Literal["reliable"]


class TopicsConfig(FrozenModel):
    """Topics of the arm. `qos` is what the driver offers; the observer asks for the same."""

    pose: PoseTopic
    wrench: WrenchTopic
    joints: JointTopic
    target: TargetTopic


class FramesConfig(FrozenModel):
    """base: of poses and targets; tcp: of the wrench, with or without a prefix in the messages."""

    base: Name
    tcp: Name


class NoGripper(FrozenModel):
    """An arm without a gripper: tasks whose actions have one are refused."""

    kind: Literal["none"] = "none"


class WidthGripper(FrozenModel):
    """A gripper that takes widths from a topic. joints: the two fingers, whose positions add up to the width [m]."""

    kind: Literal["width_topic"]
    joints: tuple[Name, Name]
    states: JointTopic
    command: WidthTopic


class ActionGripper(FrozenModel):
    """A gripper with the actions `<actions>/move` and `<actions>/grasp` (node `gripper`, mode actions)."""

    kind: Literal["move_grasp_actions"]
    joints: tuple[Name, Name]
    states: JointTopic
    actions: Topic


GripperProfile = Annotated[NoGripper | WidthGripper | ActionGripper, Field(discriminator="kind")]


class NodeConfig(FrozenModel):
    """A driver node. namespace: relative to the stack's; one_shot: it ends by itself, as a spawner does."""

    package: Package
    executable: Name
    name: Name
    namespace: Annotated[str, Field(pattern=rf"^({TOPIC})?$")] = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    one_shot: bool = False


class IncludeConfig(FrozenModel):
    """A vendor's launch file. files: arguments that take the path of a YAML file with this content."""

    package: Package
    launch_file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    arguments: dict[str, Scalar] = Field(default_factory=dict)
    files: dict[str, dict[str, Any]] = Field(default_factory=dict)


class DriversConfig(FrozenModel):
    """The drivers of the arm and its gripper, started in this order: launch files first."""

    includes: tuple[IncludeConfig, ...] = ()
    nodes: tuple[NodeConfig, ...] = ()


class CameraNode(FrozenModel):
    """The driver node of one camera. Its name and namespace follow from the camera's topic (`driver_node`)."""

    package: Package
    executable: Name
    parameters: dict[str, Any] = Field(default_factory=dict)
    arguments: tuple[str, ...] = ()


class CameraDriver(FrozenModel):
    """Colour images, and the driver node that is started for each camera of the task.

    publishes: topics of the driver relative to its node, such as `color/image_raw`. A camera whose topic ends in one of
    them gets a driver node; any other camera is started by the user. qos: what the drivers of all cameras offer.
    """

    qos: Qos
    publishes: tuple[Topic, ...] = ()
    driver: CameraNode | None = None

    @model_validator(mode="after")
    def _both(self) -> CameraDriver:
        if (self.driver is None) != (not self.publishes):
            raise ValueError("driver and publishes: expected both, or neither")
        return self


class MouseConfig(FrozenModel):
    """The SpaceMouse, by which a person demonstrates and intervenes. nodes: its driver, started beside the arm's."""

    twist: TwistTopic
    joy: JoyTopic
    nodes: tuple[NodeConfig, ...] = ()


class GainsApplied(FrozenModel):
    """Who applies the impedance gains of a task, for each mode.

    at_start: they are placeholders of `drivers`, such as `{compliant.stiffness}`; driver: the driver reads the task;
    none: never applied.
    """

    compliant: Literal["at_start", "driver"]
    precise: Literal["at_start", "driver", "none"]


class CommandConfig(FrozenModel):
    """How the arm is commanded.

    controller: node whose parameter `end_effector_frame` must name the measured frame; "" is not checked.
    stop: what the gate sends before it is silent. recovery: what a person does after a reflex, in this order.
    """

    gains: GainsApplied
    controller: str = ""
    stop: Literal["measured_pose"]
    recovery: tuple[str, ...] = ()


class RobotProfile(FrozenModel):
    """A robot, as read from `<name>.yaml` by `load_robot`.

    simulated: the stack starts the simulated cell in place of drivers, and lock-step is possible.
    values: defaults of placeholders; those that are launch arguments, too, can be given there. without_gripper: values
    that differ where the gripper is not mounted (load_gripper:=false); absent: it is always mounted.
    """

    description: str
    simulated: bool
    values: dict[str, Scalar] = Field(default_factory=dict)
    without_gripper: dict[str, Scalar] | None = None
    joints: tuple[Name, Name, Name, Name, Name, Name, Name]
    frames: FramesConfig
    topics: TopicsConfig
    gripper: GripperProfile
    command: CommandConfig
    camera: CameraDriver
    mouse: MouseConfig
    drivers: DriversConfig = DriversConfig()

    @property
    def finger_names(self) -> tuple[str, ...]:
        """Joints of the fingers; empty without a gripper."""
        return () if isinstance(self.gripper, NoGripper) else self.gripper.joints

    @property
    def finger_topic(self) -> str:
        """Joint states of the fingers; "" without a gripper."""
        return "" if isinstance(self.gripper, NoGripper) else self.gripper.states.topic

    @model_validator(mode="after")
    def _consistent(self) -> RobotProfile:
        names = [*self.joints, *self.finger_names]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"joint {twice}: there twice, expected {ARM_JOINTS} joints and two fingers")
        starts = self.drivers.nodes or self.drivers.includes or self.camera.driver or self.mouse.nodes
        if self.simulated and starts:
            raise ValueError("simulated: the simulated cell takes the place of drivers, expected no drivers")
        return self


@dataclass(frozen=True)
class Robot:
    """A robot profile whose placeholders are replaced, except those of `camera.driver`. name: for messages."""

    name: str
    profile: RobotProfile


def read_profile(path: Path) -> dict[str, Any]:
    """Read a profile without replacing anything. Raises UserError when it is no YAML file with a mapping."""
    data = read_yaml(path, MAX_CONFIGURATION_BYTES)
    if not isinstance(data, dict):
        raise UserError(f"{path}: a robot file holds a mapping, this one holds {type(data).__name__}")
    return data


def load_robot(path: Path, values: Mapping[str, Scalar], known: Mapping[str, Any], has_gripper: bool = True) -> Robot:
    """Read a robot profile, replace its placeholders and validate it.

    values: given in place of those of the file, which must have them; known: the other placeholders, among them
    `GAIN_PLACEHOLDERS`; has_gripper: false where the gripper of the profile is not mounted. Raises UserError
    `path: key.path: reason` on the first mistake.
    """
    data = read_profile(path)
    own = _own_values(path, data, values, has_gripper)
    used: set[str] = set()
    rest = {key: value for key, value in data.items() if key not in _VALUE_SECTIONS}
    if not has_gripper:
        rest["gripper"] = {"kind": "none"}
    filled = _filled(rest, {**known, **own}, "", path, used)
    profile = validated(RobotProfile, {**data, **filled, "values": own}, str(path))
    _check_gains(path, profile.command.gains, used)
    return Robot(path.stem, profile)


def _own_values(path: Path, data: dict[str, Any], values: Mapping[str, Scalar], has_gripper: bool) -> dict[str, Any]:
    """The values of the file or given instead, and `arm`: what the names of the arm's joints begin with."""
    own, without = (data.get(section) for section in _VALUE_SECTIONS)
    for section, value in zip(_VALUE_SECTIONS, (own, without), strict=True):
        if not isinstance(value, dict | None):
            raise UserError(f"{path}: {section}: expected a mapping, got {type(value).__name__}")
    own = own or {}
    if not has_gripper and without is None:
        raise UserError(f"argument load_gripper: the gripper of robot {path.stem} is always mounted, expected true")
    for name in values:
        if name not in own:
            raise UserError(f"argument {name}: robot {path.stem} has no such value, expected {_listed(own)} ({path})")
    own = {**own, **({} if has_gripper else without or {}), **values}
    prefix, kind = own.get("arm_prefix"), own.get("robot_type")
    arm = {"arm": f"{prefix}_{kind}" if prefix else str(kind)} if kind else {}
    return {**arm, **_filled(own, {**own, **arm}, "values", path, set())}


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace the placeholders of all texts in a tree of mappings and lists. KeyError for an unknown one."""
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda found: _text(values[found[1]]), value)
    if isinstance(value, Mapping):
        return {key: fill(item, values) for key, item in value.items()}
    return [fill(item, values) for item in value] if isinstance(value, (list, tuple)) else value


def driver_node(camera: CameraConfig, topic: str, driver: CameraDriver) -> NodeConfig | None:
    """Return the driver node of a camera, None when the driver does not publish `topic`.

    camera: its entry in the task; topic: its colour image. The node's name is the part of the topic before what the
    driver publishes: `camera/wrist/color/image_raw` is node `wrist` in namespace `camera`.
    """
    for suffix in driver.publishes:
        if driver.driver and topic.endswith(f"/{suffix}"):
            namespace, _, node = topic.removesuffix(f"/{suffix}").rpartition("/")
            if not node:
                return None
            size = {"width": camera.width, "height": camera.height}
            values = {"camera_namespace": namespace, "camera_node": node, "device": camera.device, **size}
            own = fill(driver.driver.model_dump(), values)
            return NodeConfig.model_validate({**own, "name": node, "namespace": namespace})
    return None


def _filled(value: Any, values: Mapping[str, Any], key: str, path: Path, used: set[str]) -> Any:
    """`fill`, where an unknown placeholder is a UserError with its key."""
    if isinstance(value, dict):
        return {name: _filled(item, values, f"{key}.{name}".lstrip("."), path, used) for name, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, values, f"{key}.{index}", path, used) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    of_camera = dict.fromkeys(CAMERA_PLACEHOLDERS) if key.startswith("camera.driver.") else {}
    for name in _names(value):
        if name not in values and name not in of_camera:
            known = _listed([*of_camera, *values])
            raise UserError(f"{path}: {key}: unknown placeholder {quoted(name)}, expected {known}")
        used.add(name)
    if of_camera and any(name in of_camera for name in _names(value)):
        return _PLACEHOLDER.sub(lambda found: found[0] if found[1] in of_camera else _text(values[found[1]]), value)
    return fill(value, values)


def _names(text: str) -> Iterator[str]:
    return (found[1] for found in _PLACEHOLDER.finditer(text))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(names: Any) -> str:
    return either(sorted(map(str, names))) if names else "none"


def _check_gains(path: Path, applied: GainsApplied, used: set[str]) -> None:
    """A gain that is forgotten would leave the controller's default in force."""
    for mode, placeholders in GAIN_PLACEHOLDERS.items():
        how = getattr(applied, mode)
        for name in placeholders:
            if how == "at_start" and name not in used:
                raise UserError(f"{path}: command.gains.{mode}: at_start, but nothing in drivers has {{{name}}}")
            if how != "at_start" and name in used:
                raise UserError(f"{path}: command.gains.{mode}: {how}, but a driver has {{{name}}}: expected at_start")
