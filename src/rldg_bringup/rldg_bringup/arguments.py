"""Arguments of the stacks: what `name:=value` is accepted, in which range, and what contradicts what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from rldg_bringup.pace import LOCK_STEP, REAL_TIME, StackPace
from rldg_core.errors import UserError, quoted
from rldg_core.limits import check_name, check_value
from rldg_core.robot import TOPIC
from rldg_core.seeding import MAX_SEED
from rldg_data.bags.mcap_writer import PRESETS
from rldg_policy.serving.chunks import RULES
from rldg_sim.operators.config import MODES, InterventionSchedule


def _argument(
    default: Any,
    help_text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    pattern: str = "",
    example: str = "",
) -> Any:
    """pattern: what a text that is given must match; example: such a text, for messages."""
    limits = {"low": low, "high": high, "choices": choices}
    metadata = {"help": help_text, "limits": limits, "pattern": pattern, "example": example}
    return field(default=default, metadata=metadata)


WORD = r"[A-Za-z][A-Za-z0-9_]*"
HOST = r"[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?"


def _optional(pattern: str, help_text: str, example: str = "") -> Any:
    """A text that may be empty: then the robot profile, or the task, decides."""
    return _argument("", help_text, pattern=f"({pattern})?", example=example)


@dataclass(frozen=True)
class StackArguments:
    """Arguments of `ros2 launch rldg_bringup insertion.launch.py` and of `rldg up insertion`, one to one."""

    namespace: str = _optional(f"{TOPIC}/?", "prefix of every topic, e.g. robot1")
    task: str = _argument("insertion", "task: name, name:object, or a .yaml file")
    control_hz: float = _argument(
        0.0, "control rate of all nodes [Hz], 1 to 100, e.g. 4 for OpenVLA; 0: the task's", low=0.0, high=100.0
    )
    robot: str = _argument("", "robot: name of a profile, or a .yaml file; default: simulated")
    sim: bool | None = _argument(
        None, "true: robot:=simulated; false: the robot of default_robots.yaml; default: as the robot is"
    )
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
    classifier: str = _argument("", "folder of a reward classifier: it decides success instead of the ground truth")
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
    drivers: bool = _argument(
        True,
        "start the arm's drivers, too, which then end with this stack; false: robot.launch.py runs (not simulated)",
    )
    robot_ip: str = _optional(HOST, "address of the arm's controller; default: the robot's", "172.16.0.2")
    robot_type: str = _optional(WORD, "type of the arm; default: the robot's", "arm7")
    arm_prefix: str = _optional(WORD, "prefix of the arm's joints and frames; default: the robot's")
    load_gripper: bool = _argument(True, "the gripper of the robot is mounted")
    end_effector_frame: str = _optional(WORD, "frame that the controller moves; default: the robot's")
    controllers_file: str = _argument("", "ros2_control parameters instead of those that the robot's profile generates")
    image_topic: str = _optional(TOPIC, "colour image; default: the task file's")
    pose_topic: str = _optional(
        TOPIC, "measured tcp pose; default: the robot's, as for the other topics", "current_pose"
    )
    wrench_topic: str = _optional(TOPIC, "external wrench", "external_wrench")
    joint_topic: str = _optional(TOPIC, "joint states", "joint_states")
    gripper_joint_topic: str = _optional(TOPIC, "finger positions", "gripper/joint_states")
    target_topic: str = _optional(TOPIC, "Cartesian target of the controller", "target_pose")
    gripper_command_topic: str = _optional(TOPIC, "gripper width [m]", "gripper_width_command")
    twist_topic: str = _optional(TOPIC, "SpaceMouse motion", "spacenav/twist")
    twist_stamped: bool = _argument(False, "SpaceMouse motion as TwistStamped; sets the driver's parameter, too")
    joy_topic: str = _optional(TOPIC, "SpaceMouse buttons", "spacenav/joy")
    scene_topic: str = _optional(TOPIC, "scene camera of the simulated cell; empty: off")

    @property
    def pace(self) -> StackPace:
        """The pace of the stack; without `sim`, the robot counts as simulated."""
        return LOCK_STEP if self.use_sim_time and self.sim is not False else REAL_TIME


def arguments_from_text(values: Mapping[str, str]) -> StackArguments:
    """Build StackArguments from strings (`name:=value`). Raises UserError on an unknown name or bad value."""
    known = {f.name: f for f in fields(StackArguments)}
    parsed: dict[str, Any] = {}
    check_argument_names(values)
    for name, text in values.items():
        if name == "robot" and text.lower() in ("true", "false"):
            raise UserError(
                f"argument robot: names a robot profile; to start the arm's drivers or not: drivers:={text}"
            )
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
    if default is None and not text:
        return None
    if default is None or isinstance(default, bool):
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


def check_limits(a: StackArguments) -> None:
    """Raise UserError for a value out of its declared range."""
    for f in fields(a):
        value = getattr(a, f.name)
        check_value(f"argument {f.name}", value, **f.metadata["limits"])
        if f.metadata["pattern"] and not re.fullmatch(f.metadata["pattern"], value):
            example = f.metadata["example"]
            expected = f"a name like {example}" if example else f.metadata["help"]
            raise UserError(f"argument {f.name}: expected {expected}, got {quoted(value)}")


def names_in_list(listed: str) -> list[str]:
    """Names of a list that is separated by commas."""
    return [name.strip() for name in listed.split(",") if name.strip()]
