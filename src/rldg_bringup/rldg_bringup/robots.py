"""Robot profiles as stacks see them: which one was asked for, its topics, and the driver nodes that it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from rldg_bringup.arguments import StackArguments
from rldg_bringup.declaration import IncludeSpec, NodeSpec
from rldg_core.configuration import FrozenModel, load_model
from rldg_core.errors import UserError
from rldg_core.files import read_text
from rldg_core.limits import check_name
from rldg_core.robot import (
    GAINS,
    MODES,
    ActionGripper,
    NodeConfig,
    NoGripper,
    Robot,
    RobotProfile,
    WidthGripper,
    driver_node,
    load_robot,
    read_profile,
)
from rldg_core.task import Task

SIMULATED = "simulated"
"""What `sim:=true` stands for."""

VALUE_ARGUMENTS = ("robot_ip", "robot_type", "arm_prefix", "end_effector_frame")
"""Launch arguments that replace the value of the same name in a robot profile."""


def robot_names(share: Path) -> list[str]:
    """Names of the installed robot profiles."""
    return sorted(path.stem for path in (share / "config" / "robots").glob("*.yaml"))


class DefaultRobots(FrozenModel):
    """Content of config/default_robots.yaml. hardware: the profile that `sim:=false` stands for."""

    hardware: str


def hardware_robot(share: Path) -> str:
    """Return the robot that `sim:=false` and `--real` stand for. Raises UserError when the file is wrong."""
    return load_model(DefaultRobots, share / "config" / "default_robots.yaml", "default robots").hardware


def robot_path(a: StackArguments, share: Path) -> Path:
    """The file of the robot that the arguments name. Raises UserError when there is none."""
    name = a.robot or (hardware_robot(share) if a.sim is False else SIMULATED)
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    check_name("robot", name, robot_names(share))
    return share / "config" / "robots" / f"{name}.yaml"


def with_sim(a: StackArguments, share: Path) -> StackArguments:
    """The arguments with `sim` as the robot says. Raises UserError when `sim` was given and contradicts it."""
    path = robot_path(a, share)
    simulated = read_profile(path).get("simulated")
    if not isinstance(simulated, bool):
        raise UserError(f"{path}: simulated: expected true or false")
    if a.sim is not None and a.sim is not simulated:
        is_simulated = "is" if simulated else "is not"
        raise UserError(f"argument sim: robot {path.stem} {is_simulated} simulated, expected {str(simulated).lower()}")
    return replace(a, sim=simulated)


def find_robot(a: StackArguments, task: Task, share: Path) -> Robot:
    """Load the robot of the arguments for a task. Raises UserError `path: key: reason` when its profile is wrong."""
    namespace = a.namespace.strip("/")
    known: dict[str, Any] = {
        "namespace": namespace,
        "logger_prefix": f"{namespace.replace('/', '.')}." if namespace else "",
        "load_gripper": a.load_gripper,
        "twist": "twist_stamped" if a.twist_stamped else "twist",
        "twist_type": "TwistStamped" if a.twist_stamped else "Twist",
        "twist_stamped": a.twist_stamped,
        "task": a.task,
        "task_dirs": [str(share / "config" / "tasks")],
    }
    for mode in MODES:
        gains = getattr(task.impedance, mode)
        known |= {f"{mode}.{name}": float(getattr(gains, name)) for name in GAINS}
    values = {name: getattr(a, name) for name in VALUE_ARGUMENTS if getattr(a, name)}
    return load_robot(robot_path(a, share), values, known, a.load_gripper)


def unapplied_gains(a: StackArguments, task: Task, robot: Robot) -> tuple[str, ...]:
    """Return one line for each mode of the task's impedance that this start of the robot does not apply.

    Empty for a simulated robot, whose resets put the arm in its place without control.
    """
    reasons = {mode: _reason_unapplied(a, robot, mode) for mode in MODES}
    return tuple(f"task {task.name}: impedance.{mode} is not applied: {why}" for mode, why in reasons.items() if why)


def _reason_unapplied(a: StackArguments, robot: Robot, mode: str) -> str:
    how = getattr(robot.profile.command.gains, mode)
    if how == "none" and not robot.profile.simulated:
        return f"robot {robot.name} never switches to {mode} gains (command.gains.{mode}: none), resets are compliant"
    if how == "at_start" and not a.drivers:
        return "drivers:=false, the running drivers keep the gains of the task that they were started with"
    if how == "at_start" and a.controllers_file:
        return f"the controller takes the gains in controllers_file {a.controllers_file}"
    return ""


@dataclass(frozen=True)
class RobotTopics:
    """Full names of the robot's topics, after the arguments that rename them. "" for what the robot does not have."""

    pose: str
    wrench: str
    joints: str
    target: str
    twist: str
    joy: str
    fingers: str
    width: str
    images: Mapping[str, str]
    """Camera of the task -> colour image."""

    @property
    def vendor(self) -> list[str]:
        """What the drivers publish, and the target."""
        own = (self.pose, self.wrench, self.joints, self.fingers, self.target)
        return [*self.images.values(), *(topic for topic in own if topic)]


def robot_topics(a: StackArguments, task: Task, profile: RobotProfile, absolute: Callable[[str], str]) -> RobotTopics:
    """Topics of the profile and of the task's cameras. Raises UserError for a name of what the robot does not have."""
    topics, gripper = profile.topics, profile.gripper
    fingers = absolute(a.gripper_joint_topic or profile.finger_topic) if profile.finger_topic else ""
    width = ""
    if isinstance(gripper, WidthGripper):
        width = absolute(a.gripper_command_topic or gripper.command.topic)
    elif a.gripper_command_topic:
        raise UserError(f"argument gripper_command_topic: the robot's gripper is {gripper.kind}, expected width_topic")
    return RobotTopics(
        pose=absolute(a.pose_topic or topics.pose.topic),
        wrench=absolute(a.wrench_topic or topics.wrench.topic),
        joints=absolute(a.joint_topic or topics.joints.topic),
        target=absolute(a.target_topic or topics.target.topic),
        twist=absolute(a.twist_topic or profile.mouse.twist.topic),
        joy=absolute(a.joy_topic or profile.mouse.joy.topic),
        fingers=fingers,
        width=width,
        images={name: absolute(a.image_topic or camera.topic) for name, camera in task.cameras.items()},
    )


def sensor_parameters(profile: RobotProfile, topics: RobotTopics) -> dict[str, Any]:
    """Parameters of `observer`, and the topics among them of the simulated cell."""
    own: dict[str, Any] = {
        "pose_topic": topics.pose,
        "wrench_topic": topics.wrench,
        "joint_topic": topics.joints,
        "base_frame": profile.frames.base,
    }
    if len(topics.images) == 1:
        own["image_topic"] = next(iter(topics.images.values()))
    return {**own, **({"gripper_joint_topic": topics.fingers} if topics.fingers else {})}


def observer_parameters(profile: RobotProfile) -> dict[str, Any]:
    """Names, frames and QoS that the observer expects."""
    gripper = profile.gripper
    own: dict[str, Any] = {
        "tcp_frame": profile.frames.tcp,
        "joint_names": list(profile.joints),
        "pose_qos": profile.topics.pose.qos,
        "wrench_qos": profile.topics.wrench.qos,
        "joint_qos": profile.topics.joints.qos,
        "image_qos": profile.camera.qos,
    }
    if not isinstance(gripper, NoGripper):
        own |= {"finger_names": list(gripper.joints), "gripper_joint_qos": gripper.states.qos}
    return own


def gripper_parameters(profile: RobotProfile, topics: RobotTopics) -> dict[str, Any]:
    """Parameters of `gripper`."""
    if isinstance(profile.gripper, ActionGripper):
        return {"mode": "actions", "gripper_action_prefix": profile.gripper.actions}
    return {"mode": "topic", "gripper_command_topic": topics.width}


def arm_drivers(a: StackArguments, robot: Robot, root: str) -> tuple[list[IncludeSpec], list[NodeSpec]]:
    """Launch files and nodes that drive the arm and its gripper. root: the namespace, "" for none."""
    drivers = robot.profile.drivers
    includes = [
        IncludeSpec(
            one.package,
            one.launch_file,
            {name: _text(value) for name, value in one.arguments.items()},
            {name: _yaml(content) for name, content in one.files.items()},
        )
        for one in drivers.includes
    ]
    if a.controllers_file:
        includes = _with_controllers_file(a.controllers_file, robot, includes)
    return includes, [_spec(node, root) for node in drivers.nodes]


def _with_controllers_file(file: str, robot: Robot, includes: list[IncludeSpec]) -> list[IncludeSpec]:
    """Replace the one file that the profile generates."""
    names = [name for one in includes for name in one.files]
    if len(names) != 1:
        raise UserError(
            f"argument controllers_file: robot {robot.name} generates {len(names)} parameter files, expected one"
        )
    text = read_text(Path(file))
    return [replace(one, files=dict.fromkeys(one.files, text)) for one in includes]


def camera_drivers(task: Task, robot: Robot, topics: RobotTopics) -> list[NodeSpec]:
    """A driver node for each camera whose topic the robot's camera driver publishes; cameras on one topic share it.

    Raises UserError where several drivers would open whichever device they find first.
    """
    found: dict[str, tuple[str, str, NodeSpec]] = {}
    for name, camera in task.cameras.items():
        node = driver_node(camera, topics.images[name], robot.profile.camera)
        if node and topics.images[name] not in found:
            found[topics.images[name]] = (name, camera.device, _spec(node, ""))
    devices = [device for _, device, _ in found.values()]
    for name, device, _ in found.values():
        if len(found) > 1 and (not device or devices.count(device) > 1):
            others = "is empty" if not device else f"{device!r} is that of another camera"
            raise UserError(
                f"task {task.name}: cameras.{name}.device: {others}, expected the serial number of its device: robot "
                f"{robot.name} starts {len(found)} camera drivers"
            )
    return [spec for *_, spec in found.values()]


def mouse_drivers(robot: Robot, root: str) -> list[NodeSpec]:
    """The driver of the SpaceMouse."""
    return [_spec(node, root) for node in robot.profile.mouse.nodes]


def _spec(node: NodeConfig, root: str) -> NodeSpec:
    namespace = node.namespace if node.namespace.startswith("/") else f"{root}/{node.namespace}".rstrip("/")
    return NodeSpec(
        node.package,
        node.executable,
        node.name,
        namespace or "/",
        node.parameters,
        node.arguments,
        node.one_shot,
    )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False)
