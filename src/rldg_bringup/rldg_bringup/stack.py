"""The stacks: which nodes run, with which parameters. Declared once, in plain Python.

`rldg_bringup.launching` turns the declaration into launch_ros actions for the launch files, `rldg_bringup.runner` into
processes. Neither holds a node list of its own. Nothing here imports ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rldg_bringup.arguments import StackArguments, check_limits, names_in_list
from rldg_bringup.artifacts import check_params_nodes
from rldg_bringup.checks import check_arguments, check_task
from rldg_bringup.declaration import IncludeSpec, NodeSpec, Stack
from rldg_bringup.robots import (
    RobotTopics,
    arm_drivers,
    camera_drivers,
    find_robot,
    gripper_parameters,
    mouse_drivers,
    observer_parameters,
    robot_topics,
    sensor_parameters,
    unapplied_gains,
    with_sim,
)
from rldg_core.errors import UserError
from rldg_core.robot import Robot
from rldg_core.task import Task, at_rate, find_task
from rldg_data.bags.resuming import ResumePoint, resume_point

NODES = (
    "cell", "episode", "exporter", "gate", "gripper", "learner", "observer", "operator", "policy", "recorder", "reward",
    "teleop",
)  # fmt: skip
"""Our nodes, whether or not a stack has them: a parameter file may be for several stacks."""

LISTENERS = ("gate", "operator", "recorder", "policy", "learner", "reward")
"""Nodes that must listen before the first episode starts: a Step or START that they miss stops a lock-step run."""


@dataclass(frozen=True)
class _Plan:
    """What the nodes of a stack are declared from.

    reference: task with its rate; root: the namespace, "" for none; resumed: where a training run continues.
    """

    arguments: StackArguments
    task: Task
    reference: str
    robot: Robot
    topics: RobotTopics
    root: str
    task_dirs: tuple[str, ...]
    resumed: ResumePoint

    @property
    def has_scripted_operator(self) -> bool:
        return self.robot.profile.simulated and self.arguments.operator != "off"

    def node(self, package: str, name: str, **parameters: Any) -> NodeSpec:
        """Declare one of our nodes with the parameters that all of them have."""
        common = {
            "task": self.reference,
            "task_dirs": list(self.task_dirs),
            **self.arguments.pace.node_parameters,
        }
        return NodeSpec(package, name, name, f"{self.root}/rldg", {**common, **parameters})

    def absolute(self, topic: str) -> str:
        return _absolute(self.root, topic)


def insertion_stack(arguments: StackArguments, share: Path) -> Stack:
    """Declare the stack of a task. `share` is the share folder of rldg_bringup.

    Raises UserError on an unknown task, robot, object or operator mode, and on arguments that contradict each other.
    """
    plan = _plan(arguments, share)
    includes, drivers = _drivers(plan)
    nodes = [*drivers, *_control_nodes(plan), *_data_nodes(plan), *_policy_nodes(plan)]
    nodes.append(_episode_node(plan, nodes))
    # It has no parameters: it needs no clock, and following a simulated one costs a tenth of a core.
    nodes.append(NodeSpec("rldg_data", "exporter", "exporter", f"{plan.root}/rldg"))
    if arguments.params_file:
        check_params_nodes(Path(arguments.params_file), [*NODES, *(node.name for node in nodes)])
    return Stack(plan.task, tuple(nodes), tuple(includes), unapplied_gains(arguments, plan.task, plan.robot))


def robot_stack(arguments: StackArguments, share: Path) -> Stack:
    """Declare the arm's drivers alone, which outlive the stack of a task; without `robot` and `sim`, of the default.

    Raises UserError on an unknown task (its gains are the controller's) or an argument out of range.
    """
    check_limits(arguments)
    if not arguments.robot and arguments.sim is None:
        arguments = replace(arguments, sim=False)
    a = with_sim(arguments, share)
    check_arguments(a)
    task = find_task(a.task, _task_dirs(share))
    robot = find_robot(a, task, share)
    if robot.profile.simulated:
        raise UserError(f"argument robot: {robot.name} is simulated and has no drivers, expected a robot with drivers")
    includes, nodes = arm_drivers(a, robot, _root(a))
    return Stack(task, tuple(nodes), tuple(includes), unapplied_gains(a, task, robot))


STACKS: Mapping[str, Callable[[StackArguments, Path], Stack]] = {"insertion": insertion_stack, "robot": robot_stack}
"""What `rldg up` starts, and a launch file each."""


def _plan(arguments: StackArguments, share: Path) -> _Plan:
    check_limits(arguments)
    a = with_sim(arguments, share)
    reference, task_dirs = at_rate(a.task, a.control_hz), _task_dirs(share)
    task = find_task(reference, task_dirs)
    check_arguments(a)
    robot = find_robot(replace(a, task=reference), task, share)
    check_task(a, task, robot)
    root = _root(a)
    topics = robot_topics(a, task, robot.profile, lambda topic: _absolute(root, topic))
    # A training run continues where its closed bags end: episode ids, step_count and, in lock-step, the clock.
    resumed = resume_point(Path(a.bag_dir)) if a.learner and a.record else ResumePoint()
    return _Plan(a, task, reference, robot, topics, root, tuple(map(str, task_dirs)), resumed)


def _task_dirs(share: Path) -> list[Path]:
    return [share / "config" / "tasks"]


def _root(a: StackArguments) -> str:
    """The namespace with a leading slash, "" for none."""
    return f"/{a.namespace.strip('/')}" if a.namespace.strip("/") else ""


def _absolute(root: str, topic: str) -> str:
    return topic if topic.startswith("/") else f"{root}/{topic}"


def _drivers(plan: _Plan) -> tuple[list[IncludeSpec], list[NodeSpec]]:
    """The simulated cell, or the drivers of arm, cameras and SpaceMouse."""
    if plan.robot.profile.simulated:
        return [], [_cell_node(plan)]
    includes, nodes = arm_drivers(plan.arguments, plan.robot, plan.root) if plan.arguments.drivers else ([], [])
    cameras = camera_drivers(plan.task, plan.robot, plan.topics)
    return includes, [*nodes, *cameras, *mouse_drivers(plan.robot, plan.root)]


def _cell_node(plan: _Plan) -> NodeSpec:
    profile = plan.robot.profile
    own: dict[str, Any] = {"target_topic": plan.topics.target, "gripper_command_topic": plan.topics.width}
    own |= {"tcp_frame": profile.frames.tcp, "joint_names": list(profile.joints)}
    if profile.finger_names:
        own["finger_names"] = list(profile.finger_names)
    if plan.arguments.classifier:
        own["reward_topic"] = "cell/ground_truth_reward"  # ground truth stays on the wire for evaluation
    return plan.node(
        "rldg_sim",
        "cell",
        **sensor_parameters(profile, plan.topics),
        **own,
        scene_topic=plan.arguments.scene_topic,
        first_stamp_ns=plan.resumed.stamp_ns,
        day=plan.arguments.seed,
    )


def _control_nodes(plan: _Plan) -> Iterable[NodeSpec]:
    """Observer, gate, and who moves the arm and the gripper."""
    a, profile, topics = plan.arguments, plan.robot.profile, plan.topics
    sensors = sensor_parameters(profile, topics)
    yield plan.node("rldg_control", "observer", **sensors, **observer_parameters(profile))
    yield plan.node(
        "rldg_control",
        "gate",
        target_topic=topics.target,
        base_frame=profile.frames.base,
        autostart=a.autostart,
        **({"controller": profile.command.controller} if profile.command.controller else {}),
        wait_for_policy=True,
        wait_for_operator=plan.has_scripted_operator,
    )
    if a.teleop or not profile.simulated:
        stamped = profile.mouse.twist.type.endswith("Stamped")
        mouse = {"twist_stamped": stamped, "twist_topic": topics.twist, "joy_topic": topics.joy}
        yield plan.node("rldg_control", "teleop", **mouse)
    if plan.has_scripted_operator:
        yield plan.node(
            "rldg_sim",
            "operator",
            mode=a.operator,
            seed=a.seed,
            first_episode=plan.resumed.episode,
            patience_s=a.patience_s,
            chance_hz=a.chance_hz,
            chance_decay=a.chance_decay,
        )
    if plan.task.action.gripper:
        yield plan.node("rldg_control", "gripper", **gripper_parameters(profile, topics))


def _data_nodes(plan: _Plan) -> Iterable[NodeSpec]:
    """Reward classifier and recorder."""
    a = plan.arguments
    if a.classifier:
        yield plan.node("rldg_rl", "reward", classifier=str(Path(a.classifier).resolve()))
    if a.record:
        yield plan.node(
            "rldg_data",
            "recorder",
            bag_dir=a.bag_dir,
            topics=_raw_topics(plan),
            preset=a.record_preset,
            max_bagfile_size=a.record_split_mb * 1_000_000,
            max_bagfile_duration=a.record_split_s,
        )


def _raw_topics(plan: _Plan) -> list[str]:
    """Full names, each once; [""] for none, since an empty list has no type as a parameter."""
    names = names_in_list(plan.arguments.record_topics)
    topics = [t for name in names for t in (plan.topics.vendor if name == "vendor" else [plan.absolute(name)])]
    return list(dict.fromkeys(topics)) or [""]


def _policy_nodes(plan: _Plan) -> Iterable[NodeSpec]:
    """Policy server, and the learner."""
    a = plan.arguments
    yield plan.node(
        "rldg_policy",
        "policy",
        policy=a.policy,
        checkpoint=a.checkpoint,
        explore=a.explore,
        chunks=a.chunks,
        http_port=a.http_port,
        live_weights=a.learner,
        preload=a.pace.preload(names_in_list(a.preload)) or [""],
        autostart=a.autostart,
    )
    if a.learner:
        yield plan.node(
            "rldg_rl",
            "learner",
            run_dir=a.run_dir,
            demo_bag_dirs=[a.demo_bag_dir],
            extra_bag_dirs=[a.earlier_bag_dir],
            watch_dir=a.watch_dir,
            config_file=a.learner_config,
            seed=a.seed,
        )


def _episode_node(plan: _Plan, others: Iterable[NodeSpec]) -> NodeSpec:
    own: dict[str, Any] = {"exact_rewards": True} if plan.arguments.classifier else {}
    if plan.task.action.gripper:
        # A SpaceMouse has two buttons, and the second one moves the gripper: `rldg label failure` ends an episode.
        own["stop_button"] = -1
    if not plan.robot.profile.simulated:
        own |= {"reset_mode": "operator", "joy_topic": plan.topics.joy}
    return plan.node(
        "rldg_control",
        "episode",
        needs=[node.name for node in others if node.name in LISTENERS],
        run_id=plan.arguments.run_id,
        first_episode=plan.resumed.episode,
        first_step=plan.resumed.step_count,
        **own,
    )
