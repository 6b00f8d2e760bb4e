"""What contradicts itself in a stack is refused before any process starts: arguments, robot and task."""

from __future__ import annotations

import re
from pathlib import Path

from rldg_bringup.arguments import StackArguments, names_in_list
from rldg_bringup.artifacts import (
    check_classifier,
    check_learner_config,
    check_output_folder,
    check_params_file,
    check_policy,
)
from rldg_core.errors import UserError, quoted
from rldg_core.robot import TOPIC, NoGripper, Robot
from rldg_core.task import Task
from rldg_sim.scene import fixed_cameras


def check_arguments(a: StackArguments) -> None:
    """Raise UserError for arguments that contradict each other. `sim` is known by now."""
    if a.operator != "off" and not a.sim:
        raise UserError("argument operator: the scripted operator exists in simulation only; use the SpaceMouse")
    if a.teleop and a.operator != "off":
        raise UserError("argument teleop: a person takes the place of the scripted operator, expected operator:=off")
    for name, reason in a.pace.refused.items():
        if getattr(a, name):
            raise UserError(f"argument {name}: {reason}")
    if a.use_sim_time and not a.sim:
        raise UserError("argument use_sim_time: lock-step needs a simulated robot (robot:=simulated)")
    if a.learner and not a.run_dir:
        raise UserError("argument run_dir: the learner needs one")
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


def check_task(a: StackArguments, task: Task, robot: Robot) -> None:
    """Raise UserError where task and robot, or task and arguments, do not fit."""
    if len(task.cameras) > 1 and a.image_topic:
        names = ", ".join(task.cameras)
        raise UserError(f"argument image_topic: task {task.name} has cameras {names}; set their topics in its file")
    if robot.profile.simulated:
        fixed_cameras(task)
    if task.action.gripper and isinstance(robot.profile.gripper, NoGripper):
        argument = f"argument robot: {robot.name} has none" if a.load_gripper else "argument load_gripper: false"
        raise UserError(f"{argument}, but task {task.name} moves the gripper")
    _check_reward(a, task)
    _check_artifacts(a, task)


def _check_reward(a: StackArguments, task: Task) -> None:
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


def _check_artifacts(a: StackArguments, task: Task) -> None:
    check_policy(a.policy, a.checkpoint, names_in_list(a.preload), task)
    if a.classifier:
        check_classifier(Path(a.classifier), task)
    if a.learner_config:
        check_learner_config(Path(a.learner_config), task)
    for name in ("bag_dir", "run_dir", "watch_dir"):
        if getattr(a, name):
            check_output_folder(name, Path(getattr(a, name)))
    for name in names_in_list(a.record_topics):
        if not re.fullmatch(TOPIC, name):
            raise UserError(
                f"argument record_topics: {quoted(name)} is no name of a topic: separate them by commas, as in "
                "camera/depth,/tf"
            )
