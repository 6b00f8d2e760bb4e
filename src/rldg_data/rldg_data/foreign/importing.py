"""Bags of other people -> episodes: what is recorded as image, pose and action or target becomes Steps.

Ticks are camera frames: of a grid at `rate_hz` the nearest frame of the first camera, each once. At a tick the newest
message of every other topic counts, as it would have for a live observer; the action is what was asked for between
this tick and the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.frames import delta_between, rotation_of
from rldg_core.from_msg import NS_PER_S
from rldg_core.types import ExecutedAction, Float32, Float64, Observation, Source, Step
from rldg_data.bags.recording import write_episode
from rldg_data.foreign.images import camera_frames
from rldg_data.foreign.mapping import (
    ForeignMapping,
    ForeignTask,
    TargetAction,
    TopicMapping,
    TwistAction,
    load_mapping,
)
from rldg_data.foreign.topics import (
    ForeignBag,
    Series,
    as_number,
    as_numbers,
    as_pose,
    as_twist,
    as_wrench,
    field_of,
    opened,
)

__all__ = ["Imported", "import_bag", "load_mapping", "read_foreign"]

MAX_REPEATED = 0.05
"""Share of ticks that may lack a camera frame of their own; more of them and the camera is slower than rate_hz."""


@dataclass(frozen=True)
class Imported:
    """path: the bag written; steps: its Steps; clipped: actions that left [-1, 1]; repeated: ticks left out."""

    path: Path
    steps: int
    clipped: int
    repeated: int


def import_bag(mapping: ForeignMapping, bag: Path, out: Path) -> Imported:
    """Write the episode of a foreign bag as the next bag of `out`.

    Raises UserError naming the bag, and topic or field, when it does not fit the mapping.
    """
    steps, repeated = read_foreign(mapping, bag)
    path = write_episode(out, steps, ForeignTask.of(mapping))
    return Imported(path, len(steps), sum(step.action.action_clipped for step in steps), repeated)


def read_foreign(mapping: ForeignMapping, path: Path) -> tuple[list[Step], int]:
    """Steps of a foreign bag, and how many ticks were left out. Raises UserError as `import_bag`."""
    with opened(path, mapping.stamps == "header") as bag:
        stamps = {name: bag.read(camera.topic, lambda *known: known[-1]) for name, camera in mapping.cameras.items()}
        first = next(iter(stamps.values()))
        bag.follow_clock(first)
        series = _series(mapping, bag)
        ticks, repeated = _ticks(mapping, path, first, list(series["seen"].values()) + list(stamps.values()))
        images = {
            name: camera_frames(bag, camera, stamps[name], [stamps[name].newest(t) for t in ticks])
            for name, camera in mapping.cameras.items()
        }
    seen = {name: _at_ticks(mapping, path, one, ticks) for name, one in series["seen"].items()}
    actions = _actions(mapping, series["asked"], ticks, seen["pose"])
    return _steps(mapping, path, ticks, images, seen, actions), repeated


def _series(mapping: ForeignMapping, bag: ForeignBag) -> dict[str, dict[str, Series]]:
    """seen: what belongs to an observation; asked: what belongs to an action."""

    def read(part: TopicMapping, convert: Any) -> Series:
        return bag.read(part.topic, lambda message, kind, _: convert(field_of(message, kind, part.field)))

    seen = {"pose": read(mapping.pose, as_pose)}
    optional = (("wrench", as_wrench), ("joints", as_numbers), ("gripper_width", as_number))
    for name, convert in optional:
        part = getattr(mapping, name)
        if part:
            seen[name] = read(part, convert)
    action = mapping.action
    kinds: dict[str, Any] = {"target": as_pose, "twist": as_twist, "delta": lambda value: _six(action, value)}
    asked = {"action": read(action, kinds[action.kind])}
    if mapping.gripper_action:
        asked["gripper"] = read(mapping.gripper_action, as_number)
    return {"seen": seen, "asked": asked}


def _ticks(mapping: ForeignMapping, path: Path, camera: Series, others: list[Series]) -> tuple[NDArray[np.int64], int]:
    """Stamps of the camera frames that become observations, and how many of the grid had none of their own."""
    begin = max(int(one.stamps_ns[0]) for one in others)
    end = min(int(one.stamps_ns[-1]) for one in others) + int(_max_age_s(mapping) * NS_PER_S)
    frames = camera.stamps_ns[(camera.stamps_ns >= begin) & (camera.stamps_ns <= end)]
    if len(frames) < 2:
        spans = "; ".join(f"{one.topic} {one.stamps_ns[0]} to {one.stamps_ns[-1]}" for one in others)
        raise UserError(f"{path}: topics do not overlap in time: {spans}")
    period_ns = mapping.period_s * NS_PER_S
    grid = frames[0] + np.round(np.arange(int((frames[-1] - frames[0]) / period_ns + 0.5) + 1) * period_ns)
    later = np.clip(np.searchsorted(frames, grid), 1, len(frames) - 1)
    nearest = np.where(grid - frames[later - 1] <= frames[later] - grid, later - 1, later)
    chosen = np.unique(frames[nearest])
    repeated = len(grid) - len(chosen)
    if repeated > MAX_REPEATED * len(grid):
        rate = (len(frames) - 1) / ((frames[-1] - frames[0]) / NS_PER_S)
        raise UserError(f"{path}: topic {camera.topic}: {rate:.2f} frames per second, rate_hz is {mapping.rate_hz:g}")
    if len(chosen) < 2:
        raise UserError(f"{path}: shorter than one step at rate_hz {mapping.rate_hz}")
    return chosen, repeated


def _max_age_s(mapping: ForeignMapping) -> float:
    return mapping.max_age_s if mapping.max_age_s is not None else 2 * mapping.period_s


def _at_ticks(mapping: ForeignMapping, path: Path, one: Series, ticks: NDArray[np.int64]) -> list[Any]:
    """The newest value at every tick. Raises UserError when it is too old."""
    limit_ns = _max_age_s(mapping) * NS_PER_S
    values = []
    for tick in ticks:
        index = one.newest(int(tick))
        age_ns = int(tick) - int(one.stamps_ns[index])
        if age_ns > limit_ns:
            raise UserError(
                f"{path}: topic {one.topic}: nothing for {age_ns / NS_PER_S:.3f} s before {tick}, "
                f"max_age_s is {limit_ns / NS_PER_S:.3f}"
            )
        values.append(one.values[index])
    return values


def _actions(
    mapping: ForeignMapping, asked: Mapping[str, Series], ticks: NDArray[np.int64], poses: list[Float64]
) -> list[Float32]:
    """Normalised actions, not clipped, of all ticks but the last."""
    config = ForeignTask.of(mapping).action
    series = asked["action"]
    actions = []
    for k, pose in enumerate(poses[:-1]):
        delta_tcp = _delta(mapping, series, int(ticks[k]), int(ticks[k + 1]), pose)
        action = list(config.from_delta_tcp(delta_tcp))
        if mapping.gripper_action:
            index = asked["gripper"].newest(int(ticks[k + 1]) - 1)
            value = asked["gripper"].values[index] if index >= 0 else mapping.gripper_action.open
            opened_by = value - mapping.gripper_action.closed
            action.append(2 * opened_by / (mapping.gripper_action.open - mapping.gripper_action.closed) - 1)
        actions.append(np.array(action, dtype=np.float32))
    return actions


def _delta(mapping: ForeignMapping, series: Series, start_ns: int, end_ns: int, pose: Float64) -> Float64:
    """What was asked for in [start, end) as a delta of the tcp in its own axes [m, rad]; zero when nothing was.

    A message stamped as the tick itself answers it: many stacks copy the stamp of the observation.
    """
    action = mapping.action
    newest = series.newest(end_ns - 1)
    if isinstance(action, TargetAction):
        # A target stays in force until the next one.
        return delta_between(pose, series.values[newest]) if newest >= 0 else np.zeros(6)
    asked = series.values[series.newest(start_ns - 1) + 1 : newest + 1]
    if not asked:
        return np.zeros(6)
    if isinstance(action, TwistAction):
        delta = np.mean(asked, axis=0) * ((end_ns - start_ns) / NS_PER_S)
    else:
        delta = asked[-1] * ([action.unit_m] * 3 + [action.unit_rad] * 3)
    if action.frame == "base":
        into_tcp = rotation_of(pose).inv()
        delta = np.concatenate([into_tcp.apply(delta[:3]), into_tcp.apply(delta[3:])])
    return np.asarray(delta, dtype=np.float64)


def _six(action: Any, value: Any) -> Float64:
    values = as_numbers(value)
    chosen = values[action.first : action.first + 6]
    if len(chosen) != 6:
        raise ValueError(f"{len(values)} numbers, the action needs six from number {action.first}")
    return chosen


def _steps(
    mapping: ForeignMapping,
    path: Path,
    ticks: NDArray[np.int64],
    images: Mapping[str, list[bytes]],
    seen: Mapping[str, list[Any]],
    actions: list[Float32],
) -> list[Step]:
    twists = _twists(ticks, seen["pose"])
    last = len(ticks) - 1
    width = mapping.gripper_width.scale if mapping.gripper_width else 1.0
    steps = []
    for k, tick in enumerate(map(int, ticks)):
        asked = actions[k] if k < last else np.empty(0, np.float32)
        executed = np.clip(asked, -1, 1)
        ending = k >= last - 1
        steps.append(
            Step(
                episode_id=f"import/{path.resolve().stem}",
                index=k,
                step_count=k,
                task=mapping.task,
                object=mapping.object,
                instruction=mapping.instruction,
                seed=0,
                observation=Observation(
                    stamp_ns=tick,
                    images={name: files[k] for name, files in images.items()},
                    pose_base_tcp=seen["pose"][k],
                    twist_base_tcp=twists[k],
                    wrench_tcp=seen["wrench"][k] if "wrench" in seen else np.zeros(6),
                    joint_positions=seen["joints"][k] if "joints" in seen else np.empty(0),
                    gripper_width_m=seen["gripper_width"][k] * width if "gripper_width" in seen else float("nan"),
                ),
                action=ExecutedAction(
                    observation_stamp_ns=tick,
                    requested=asked,
                    executed=executed,
                    source=Source[mapping.source.upper()] if k < last else Source.NONE,
                    action_clipped=bool(np.any(asked != executed)),
                ),
                reward=float(mapping.success and k == last - 1),
                terminated=mapping.success and ending,
                truncated=not mapping.success and ending,
                is_first=k == 0,
                is_last=k == last,
                success=mapping.success and ending,
            )
        )
    return steps


def _twists(ticks: NDArray[np.int64], poses: list[Float64]) -> list[Float64]:
    """Backward differences in base axes, zero at the first tick, as the observer computes them."""
    twists = [np.zeros(6)]
    for before, after, start, end in zip(poses, poses[1:], ticks, ticks[1:], strict=False):
        turn = (rotation_of(after) * rotation_of(before).inv()).as_rotvec()
        twists.append(np.concatenate([after[:3] - before[:3], turn]) * (NS_PER_S / int(end - start)))
    return twists
