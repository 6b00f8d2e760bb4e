"""The topics of a foreign bag as a mapping names them: values by names, in the frames that the mapping says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rldg_core.errors import UserError
from rldg_core.types import Float64
from rldg_data.episodes.gripper import switching
from rldg_data.foreign.frames import Frame, check_frame, frame_of
from rldg_data.foreign.mapping import (
    ForeignMapping,
    GripperAction,
    PoseMapping,
    TargetAction,
    TopicMapping,
    TwistAction,
)
from rldg_data.foreign.topics import (
    ForeignBag,
    Series,
    as_gripper,
    as_joints,
    as_numbers,
    as_pose,
    as_twist,
    as_width,
    as_wrench,
    visit,
)


def read_series(mapping: ForeignMapping, bag: ForeignBag, path: Path) -> dict[str, dict[str, Series]]:
    """seen: what belongs to an observation; asked: what belongs to an action."""

    def read(part: TopicMapping, convert: Callable[[Any], Any], frame: Frame | None = None) -> Series:
        def take(message: Any, kind: str, _: int) -> Any:
            visited = visit(message, kind, part.field)
            value = convert(visited[-1])
            if frame:
                check_frame(frame_of(visited, "frame_id"), frame, part.frame_id)
            if isinstance(part, PoseMapping):
                check_frame(frame_of(visited, "child_frame_id"), "tcp", part.child_frame_id, "child_frame_id")
            return value

        return bag.read(part.topic, take, part.offset_s)

    def by_name(part: TopicMapping, convert: Callable[[Any, str, str], Any]) -> Series:
        return bag.read(part.topic, lambda message, kind, _: convert(message, kind, part.field), part.offset_s)

    seen = {"pose": read(mapping.pose, as_pose, "base")}
    if mapping.wrench:
        seen["wrench"] = read(mapping.wrench, as_wrench, mapping.wrench.frame)
    if mapping.joints:
        seen["joints"] = by_name(mapping.joints, as_joints)
    if mapping.gripper_width:
        convert = as_width if mapping.gripper_width.scale == 1.0 else as_gripper
        seen["gripper_width"] = by_name(mapping.gripper_width, convert)
    action = mapping.action
    if isinstance(action, TargetAction):
        asked = {"action": read(action, as_pose, "base")}
    elif isinstance(action, TwistAction):
        asked = {"action": read(action, as_twist, action.frame)}
    else:
        asked = {"action": read(action, lambda value: _six(action, value))}
    if mapping.gripper_action:
        asked["gripper"] = _gripper_commands(mapping.gripper_action, by_name(mapping.gripper_action, as_gripper), path)
    return {"seen": seen, "asked": asked}


def _gripper_commands(gripper: GripperAction, values: Series, path: Path) -> Series:
    opened = (np.array(values.values) - gripper.closed) / (gripper.open - gripper.closed)
    try:
        commands = switching(opened, f"topic {gripper.topic}")
    except ValueError as error:
        given = f"open {gripper.open:g}, closed {gripper.closed:g}"
        raise UserError(f"{path}: {error} (gripper_action: {given})") from error
    return replace(values, values=commands.tolist())


def _six(action: Any, value: Any) -> Float64:
    values = as_numbers(value)
    chosen = values[action.first : action.first + 6]
    if len(chosen) != 6:
        raise ValueError(f"{len(values)} numbers, the action needs six from number {action.first}")
    return chosen
