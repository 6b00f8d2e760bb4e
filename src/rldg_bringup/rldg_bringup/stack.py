"""The stacks: which nodes run, with which parameters. Declared once, in plain Python.

`rldg_bringup.launching` turns the declaration into launch_ros actions for the launch files, `rldg_bringup.runner` into
processes. Neither holds a node list of its own. Nothing here imports ROS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rldg_bringup.artifacts import (
    check_classifier,
    check_learner_config,
    check_output_folder,
    check_params_file,
    check_policy,
)
from rldg_bringup.franka import Arm, controllers_yaml
from rldg_core.errors import UserError, quoted
from rldg_core.files import read_text
from rldg_core.limits import check_name, check_value
from rldg_core.seeding import MAX_SEED
from rldg_core.task import Task, at_rate, find_task
from rldg_data.bags.mcap_writer import PRESETS
from rldg_data.bags.resuming import ResumePoint, resume_point
from rldg_policy.serving.chunks import RULES
from rldg_sim.operators.config import MODES, InterventionSchedule
from rldg_sim.scene import fixed_cameras

Parameters = Mapping[str, Any]


CONTROLLER = "cartesian_impedance_controller"
"""Of config/franka/controllers.yaml."""


@dataclass(frozen=True)
class NodeSpec:
    """One node process. `namespace` is absolute. `arguments` are passed before the ROS arguments."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: Parameters = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    one_shot: bool = False  # ends by itself (a spawner); its end does not end the stack


@dataclass(frozen=True)
class IncludeSpec:
    """A vendor's launch file: IncludeLaunchDescription under `launch`, `ros2 launch` as a process.

    `files` are arguments whose value is the path of a file with this text, written at the start.
    """

    package: str
    launch_file: str
    arguments: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stack:
    """Nodes in starting order. They end in the reverse order, except that `gate` ends first: it must send
    the measured pose while the sensors still run."""

    task: Task
    nodes: tuple[NodeSpec, ...]
    includes: tuple[IncludeSpec, ...]

    @property
    def namespace(self) -> str:
        """Of our nodes; "" in a stack of drivers alone."""
        return next((n.namespace for n in self.nodes if n.name == "gate"), "")

    def node(self, name: str) -> NodeSpec:
        """Find a node by name; KeyError when the stack has none."""
        return {n.name: n for n in self.nodes}[name]


def _argument(
    default: Any,
    help_text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    pattern: str = "",
) -> Any:
    limits = {"low": low, "high": high, "choices": choices}
    return field(default=default, metadata={"help": help_text, "limits": limits, "pattern": pattern})


TOPIC = r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"
"""Name of a topic or namespace, absolute or relative."""
WORD = r"[A-Za-z][A-Za-z0-9_]*"
HOST = r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?"


def _topic(default: str, help_text: str) -> Any:
    return _argument(default, help_text, pattern=TOPIC if default else f"({TOPIC})?")


@dataclass(frozen=True)
class StackArguments:
    """Arguments of `ros2 launch rldg_bringup insertion.launch.py` and of `rldg up insertion`, one to one."""

    namespace: str = _argument("", "prefix of every topic, e.g. robot1", pattern=f"({TOPIC}/?)?")
    task: str = _argument("insertion", "task: name, name:object, or a .yaml file")
    control_hz: float = _argument(
        0.0, "control rate of all nodes [Hz], 1 to 100, e.g. 4 for OpenVLA; 0: the task's", low=0.0, high=100.0
    )
    sim: bool = _argument(True, "simulated cell instead of Franka, RealSense and SpaceMouse")
    use_sim_time: bool = _argument(False, "with sim: lock-step, as fast as the machine allows, repeatable")
    policy: str = _argument("hold", "policy back-end active at start")
    checkpoint: str = _argument("", "its checkpoint folder")
    explore: bool = _argument(False, "sample actions instead of taking the mode")
    chunks: str = _argument("newest", "where chunks of actions overlap: newest, whole, ensemble", choices=RULES)
    preload: str = _argument(
        "compact,octo,openvla",
        "back-ends imported before ticks are due, comma-separated; the first load of another costs ticks",
    )
    http_port: int = _argument(
        0, "serve the active policy at http://127.0.0.1:<port>/act between episodes; 0: off", low=0, high=65535
    )
    operator: str = _argument("off", "scripted operator (sim): off, demonstrate, intervene", choices=MODES)
    patience_s: float = _argument(
        InterventionSchedule.patience_s, "operator steps in after so long without progress", low=0.0
    )
    chance_hz: float = _argument(
        InterventionSchedule.chance_hz, "and at random at this rate in the first episode", low=0.0
    )
    chance_decay: float = _argument(
        InterventionSchedule.chance_decay, "times this with each further episode", low=0.0, high=1.0
    )
    teleop: bool = _argument(False, "SpaceMouse in simulation, too (real time); on the robot it is always there")
    learner: bool = _argument(False, "train a specialist from the live steps")
    run_dir: str = _argument("", "run folder of the learner")
    demo_bag_dir: str = _argument("", "bags of demonstrations for the learner")
    earlier_bag_dir: str = _argument("", "bags of earlier runs for the learner's online replay")
    watch_dir: str = _argument("", "closed bags that appear here while it runs are learned from, too")
    classifier: str = _argument("", "folder of a reward classifier: success is its verdict, not the ground truth")
    learner_config: str = _argument("", "YAML with overrides of the learner's configuration")
    record: bool = _argument(False, "one bag per episode")
    bag_dir: str = _argument("bags", "where the bags go")
    record_topics: str = _argument("", "topics to record raw beside step, comma-separated; vendor: all of the drivers'")
    record_preset: str = _argument(
        "zstd_fast", "compression of bags: none, zstd_fast, zstd_small", choices=tuple(PRESETS)
    )
    record_split_mb: int = _argument(
        0, "begin a further file of a bag at this size; 0: one file", low=0, high=1_000_000
    )
    record_split_s: int = _argument(
        0, "begin a further file of a bag after so long; 0: one file", low=0, high=1_000_000
    )
    run_id: str = _argument("", "prefix of episode ids: letters, digits, '_', '.' and '-'", pattern=r"[A-Za-z0-9_.-]*")
    seed: int = _argument(0, "seed of everything random", low=0, high=MAX_SEED)
    params_file: str = _argument("", "parameter file applied last, over everything below")
    autostart: bool = _argument(True, "lifecycle nodes configure and activate themselves")
    log_level: str = _argument("info", "debug, info, warn, error", choices=("debug", "info", "warn", "error"))
    robot: bool = _argument(
        True, "start the arm's drivers, too, which then end with this stack; false: robot.launch.py runs (sim:=false)"
    )
    robot_ip: str = _argument("172.16.0.2", "address of the Franka controller (sim:=false)", pattern=HOST)
    robot_type: str = _argument("fr3", "type of the Franka arm (sim:=false)", pattern=WORD)
    arm_prefix: str = _argument("", "prefix of the arm's joints and frames (sim:=false)", pattern=f"({WORD})?")
    load_gripper: bool = _argument(True, "the arm has a Franka hand (sim:=false)")
    end_effector_frame: str = _argument(
        "", "frame that the controller moves; default: the tcp of the hand, or the flange", pattern=f"({WORD})?"
    )
    controllers_file: str = _argument("", "ros2_control parameters instead of the generated ones (sim:=false)")
    image_topic: str = _topic("", "colour image; default: the task file's")
    pose_topic: str = _topic("franka_robot_state_broadcaster/current_pose", "measured tcp pose")
    wrench_topic: str = _topic("franka_robot_state_broadcaster/external_wrench_in_stiffness_frame", "external wrench")
    joint_topic: str = _topic("franka_robot_state_broadcaster/measured_joint_states", "joint states")
    gripper_joint_topic: str = _topic("franka_gripper/joint_states", "finger positions")
    target_topic: str = _topic("target_pose", "Cartesian target of the controller")
    gripper_command_topic: str = _topic("gripper_width_command", "gripper width [m]")
    twist_topic: str = _topic("", "SpaceMouse motion; default: spacenav/twist, or twist_stamped")
    twist_stamped: bool = _argument(False, "SpaceMouse motion as TwistStamped; sets spacenav's use_twist_stamped, too")
    joy_topic: str = _topic("spacenav/joy", "SpaceMouse buttons")
    scene_topic: str = _topic("", "scene camera of the simulated cell; empty: off")

    @property
    def lockstep(self) -> bool:
        """Simulated time means lock-step: the cell advances only when its last frame was answered."""
        return self.sim and self.use_sim_time


def arguments_from_text(values: Mapping[str, str]) -> StackArguments:
    """Build StackArguments from strings (`name:=value`). Raises UserError on an unknown name or bad value."""
    known = {f.name: f for f in fields(StackArguments)}
    parsed: dict[str, Any] = {}
    check_argument_names(values)
    for name, text in values.items():
        parsed[name] = _parse(name, text, known[name].default)
    return StackArguments(**parsed)


def arguments_from_pairs(texts: Sequence[str]) -> StackArguments:
    """Build StackArguments from a command line of `name:=value`. Raises UserError for anything else in it."""
    for text in texts:
        if ":=" not in text:
            raise UserError(f"argument {quoted(text)}: expected name:=value")
    check_argument_names(text.partition(":=")[0] for text in texts)
    return arguments_from_text(dict(text.split(":=", 1) for text in texts))


def check_argument_names(names: Iterable[str]) -> None:
    """Raise UserError for a name that is no argument, listing the nearest ones, and for one that is given twice."""
    known = [f.name for f in fields(StackArguments)]
    seen: set[str] = set()
    for name in names:
        check_name("argument", name, known)
        if name in seen:
            raise UserError(f"argument {name}: given twice")
        seen.add(name)


def _parse(name: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise UserError(f"argument {name}: expected true or false, got {quoted(text)}")
        return text.lower() == "true"
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError:
            raise UserError(f"argument {name}: expected an integer, got {quoted(text)}") from None
    if isinstance(default, float):
        try:
            return float(text)
        except ValueError:
            raise UserError(f"argument {name}: expected a number, got {quoted(text)}") from None
    return text


def insertion_stack(arguments: StackArguments, share: Path) -> Stack:
    """Declare the stack of the insertion tasks. `share` is the share folder of rldg_bringup.

    Raises UserError on an unknown task, object, operator mode or on arguments that contradict each other.
    """
    a = arguments
    _check_limits(a)
    reference = at_rate(a.task, a.control_hz)
    task = find_task(reference, [share / "config" / "tasks"])
    _check(a)
    _check_task(a, task)
    root = _root(a)

    def absolute(topic: str) -> str:
        return topic if topic.startswith("/") else f"{root}/{topic}"

    camera = next(iter(task.cameras.values()))
    vendor = {
        "image_topic": absolute(a.image_topic or camera.topic),
        "pose_topic": absolute(a.pose_topic),
        "wrench_topic": absolute(a.wrench_topic),
        "joint_topic": absolute(a.joint_topic),
        "gripper_joint_topic": absolute(a.gripper_joint_topic),
    }
    target = {"target_topic": absolute(a.target_topic)}
    gripper = {"gripper_command_topic": absolute(a.gripper_command_topic)}
    common = {
        "task": reference,
        "task_dirs": [str(share / "config" / "tasks")],
        "lockstep": a.lockstep,
        "use_sim_time": a.lockstep,
    }
    operator_active = a.sim and a.operator != "off"
    # A training run goes on where its closed bags end: episode ids, step_count and, in lock-step, the clock.
    resumed = resume_point(Path(a.bag_dir)) if a.learner and a.record else ResumePoint()

    def node(package: str, name: str, **parameters: Any) -> NodeSpec:
        return NodeSpec(package, name, name, f"{root}/rldg", {**common, **parameters})

    nodes: list[NodeSpec] = []
    includes: list[IncludeSpec] = []
    if a.sim:
        nodes.append(
            node(
                "rldg_sim",
                "cell",
                **vendor,
                **target,
                **gripper,
                scene_topic=a.scene_topic,
                first_stamp_ns=resumed.stamp_ns,
                # Ground truth stays on the wire for evaluation.
                **({"reward_topic": "cell/ground_truth_reward"} if a.classifier else {}),
            )
        )
    else:
        if a.robot:
            robot = robot_stack(a, share)
            includes.extend(robot.includes)
            nodes.extend(robot.nodes)
        nodes.extend(_sensors(a, root, camera.width, camera.height))
    nodes.append(node("rldg_control", "observer", **vendor))
    nodes.append(
        node(
            "rldg_control",
            "gate",
            **target,
            autostart=a.autostart,
            **({} if a.sim else {"controller": CONTROLLER}),
            wait_for_policy=True,
            wait_for_operator=operator_active,
        )
    )
    if a.teleop or not a.sim:
        default_twist = "spacenav/twist_stamped" if a.twist_stamped else "spacenav/twist"
        nodes.append(
            node(
                "rldg_control",
                "teleop",
                twist_stamped=a.twist_stamped,
                twist_topic=absolute(a.twist_topic or default_twist),
                joy_topic=absolute(a.joy_topic),
            )
        )
    if operator_active:
        nodes.append(
            node(
                "rldg_sim",
                "operator",
                mode=a.operator,
                seed=a.seed,
                first_episode=resumed.episode,
                patience_s=a.patience_s,
                chance_hz=a.chance_hz,
                chance_decay=a.chance_decay,
            )
        )
    if task.action.gripper:
        nodes.append(node("rldg_control", "gripper", **gripper, mode="topic" if a.sim else "franka"))
    if a.classifier:
        nodes.append(node("rldg_rl", "reward", classifier=str(Path(a.classifier).resolve())))
    if a.record:
        nodes.append(
            node(
                "rldg_data",
                "recorder",
                bag_dir=a.bag_dir,
                topics=_raw_topics(a.record_topics, [*vendor.values(), *target.values()], absolute),
                preset=a.record_preset,
                max_bagfile_size=a.record_split_mb * 1_000_000,
                max_bagfile_duration=a.record_split_s,
            )
        )
    nodes.append(
        node(
            "rldg_policy",
            "policy",
            policy=a.policy,
            checkpoint=a.checkpoint,
            explore=a.explore,
            chunks=a.chunks,
            http_port=a.http_port,
            live_weights=a.learner,
            # Importing torch or jax while ticks are due would miss some; in lock-step nothing can be missed.
            preload=[""] if a.lockstep else _names(a.preload) or [""],
            autostart=a.autostart,
        )
    )
    if a.learner:
        nodes.append(
            node(
                "rldg_rl",
                "learner",
                run_dir=a.run_dir,
                demo_bag_dirs=[a.demo_bag_dir],
                extra_bag_dirs=[a.earlier_bag_dir],
                watch_dir=a.watch_dir,
                config_file=a.learner_config,
                seed=a.seed,
            )
        )
    # Who must listen before the first episode starts: a Step or START that nobody hears stops a lock-step run.
    listeners = ("gate", "operator", "recorder", "policy", "learner", "reward")
    needs = [n.name for n in nodes if n.name in listeners]
    nodes.append(
        node(
            "rldg_control",
            "episode",
            needs=needs,
            run_id=a.run_id,
            first_episode=resumed.episode,
            first_step=resumed.step_count,
            **({"exact_rewards": True} if a.classifier else {}),
            reset_mode="cell" if a.sim else "operator",
            # A SpaceMouse has two buttons, and the second one moves the gripper: `rldg label failure` ends an episode.
            **({"stop_button": -1} if task.action.gripper else {}),
            joy_topic=absolute(a.joy_topic),
        )
    )
    # It needs no clock, and following a simulated one costs a tenth of a core.
    nodes.append(node("rldg_data", "exporter", use_sim_time=False))
    return Stack(task, tuple(nodes), tuple(includes))


def _names(listed: str) -> list[str]:
    """Names of a list that is separated by commas."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def _raw_topics(listed: str, vendor: list[str], absolute: Callable[[str], str]) -> list[str]:
    """Full names, each once; [""] for none, since an empty list has no type as a parameter."""
    topics = [topic for name in _names(listed) for topic in (vendor if name == "vendor" else [absolute(name)])]
    return list(dict.fromkeys(topics)) or [""]


def _check(a: StackArguments) -> None:
    if a.operator != "off" and not a.sim:
        raise UserError("argument operator: the scripted operator exists in simulation only; use the SpaceMouse")
    if a.teleop and (a.use_sim_time or a.operator != "off"):
        raise UserError(
            "argument teleop: a person needs real time (use_sim_time:=false) and takes the operator's place"
        )
    if a.use_sim_time and not a.sim:
        raise UserError("argument use_sim_time: lock-step needs sim:=true")
    if a.learner and not a.run_dir:
        raise UserError("argument run_dir: the learner needs one")
    if a.http_port and a.lockstep:
        raise UserError("argument http_port: the simulated clock of lock-step waits for nobody outside (use_sim_time)")
    for name in ("params_file", "controllers_file", "learner_config"):
        path = getattr(a, name)
        if path and not Path(path).is_file():
            raise UserError(f"argument {name}: no file {path}")
    if a.checkpoint and not Path(a.checkpoint).exists():  # a folder, or the configuration of a new specialist
        raise UserError(f"argument checkpoint: no file or folder {a.checkpoint}")
    for name in ("demo_bag_dir", "earlier_bag_dir"):
        path = getattr(a, name)
        if path and not Path(path).is_dir():
            raise UserError(f"argument {name}: no folder {path}")
    if a.params_file:
        check_params_file(Path(a.params_file))
    if a.record and not a.bag_dir:
        raise UserError("argument bag_dir: must not be empty (record:=true)")


def _check_limits(a: StackArguments) -> None:
    """Raise UserError for a value out of its declared range."""
    for f in fields(a):
        value = getattr(a, f.name)
        check_value(f"argument {f.name}", value, **f.metadata["limits"])
        if f.metadata["pattern"] and not re.fullmatch(f.metadata["pattern"], value):
            expected = f"a name like {f.default}" if f.default else f.metadata["help"]
            raise UserError(f"argument {f.name}: expected {expected}, got {quoted(value)}")


def _check_task(a: StackArguments, task: Task) -> None:
    if len(task.cameras) > 1 and a.image_topic:
        names = ", ".join(task.cameras)
        raise UserError(f"argument image_topic: task {task.name} has cameras {names}; set their topics in its file")
    if a.sim:
        fixed_cameras(task)
    if not a.sim and task.action.gripper and not a.load_gripper:
        raise UserError(f"argument load_gripper: task {task.name} moves the gripper, expected true")
    source = task.reward.source
    if a.classifier and source == "operator":
        raise UserError(
            f"argument classifier: the operator labels the episodes of task {task.name}; "
            "set reward.source: classifier in its file"
        )
    if source == "classifier" and not a.classifier:
        raise UserError(f"argument classifier: task {task.name} takes its reward from one; give its folder")
    if a.classifier and not (Path(a.classifier) / "config.json").is_file():
        raise UserError(f"argument classifier: no classifier in {a.classifier}")
    _check_artifacts(a, task)


def _check_artifacts(a: StackArguments, task: Task) -> None:
    check_policy(a.policy, a.checkpoint, _names(a.preload), task)
    if a.classifier:
        check_classifier(Path(a.classifier), task)
    if a.learner_config:
        check_learner_config(Path(a.learner_config), task)
    for name in ("bag_dir", "run_dir", "watch_dir"):
        if getattr(a, name):
            check_output_folder(name, Path(getattr(a, name)))
    for name in _names(a.record_topics):
        if not re.fullmatch(TOPIC, name):
            raise UserError(
                f"argument record_topics: {quoted(name)} is no name of a topic: separate them by commas, as in "
                "camera/depth,/tf"
            )


def robot_stack(arguments: StackArguments, share: Path) -> Stack:
    """Declare the arm's part alone: franka_ros2 and the impedance controller, which outlive the stack of a task.

    Raises UserError on an unknown task (its gains are the controller's) or an argument out of range.
    """
    a = arguments
    _check_limits(a)
    task = find_task(a.task, [share / "config" / "tasks"])
    _check(a)
    if a.controllers_file:
        controllers = read_text(Path(a.controllers_file))
    else:
        arm = Arm(a.robot_type, a.arm_prefix, a.load_gripper, a.end_effector_frame)
        controllers = controllers_yaml(share / "config" / "franka" / "controllers.yaml", arm, task.impedance.compliant)
    # State broadcaster, hand and controller manager (franka_bringup/launch/franka.launch.py).
    franka = IncludeSpec(
        "franka_bringup",
        "franka.launch.py",
        {
            "robot_type": a.robot_type,
            "robot_ip": a.robot_ip,
            "arm_prefix": a.arm_prefix,
            "namespace": a.namespace.strip("/"),
            "load_gripper": str(a.load_gripper).lower(),
        },
        {"controllers_yaml": controllers},
    )
    controller = NodeSpec(
        "controller_manager",
        "spawner",
        "spawn_cartesian_impedance",
        _root(a) or "/",
        arguments=(CONTROLLER,),
        one_shot=True,
    )
    return Stack(task, (controller,), (franka,))


STACKS: Mapping[str, Callable[[StackArguments, Path], Stack]] = {"insertion": insertion_stack, "robot": robot_stack}
"""What `rldg up` starts, and a launch file each."""


def _root(a: StackArguments) -> str:
    """The namespace with a leading slash, "" for none."""
    return f"/{a.namespace.strip('/')}" if a.namespace.strip("/") else ""


def _sensors(a: StackArguments, root: str, width: int, height: int) -> list[NodeSpec]:
    """Camera and SpaceMouse."""
    spacenav = f"{root}/spacenav".strip("/").replace("/", ".")  # name of its logger
    return [
        NodeSpec(
            "realsense2_camera",
            "realsense2_camera_node",
            "camera",
            f"{root}/camera",
            {
                "enable_depth": False,
                "enable_infra1": False,
                "enable_infra2": False,
                "depth_module.color_profile": f"{width}x{height}x30",
            },
        ),
        NodeSpec(
            "spacenav",
            "spacenav_node",
            "spacenav",
            root or "/",
            # A daemon that ends while the mouse is pushed sends nothing more: zeros, then, not the last value.
            {"zero_when_static": True, "use_twist_stamped": a.twist_stamped},
            # Without its daemon it logs the same error 1,000 times a second; `teleop` says what is missing.
            arguments=("--ros-args", "--log-level", f"{spacenav}:=fatal", "--"),
        ),
    ]
