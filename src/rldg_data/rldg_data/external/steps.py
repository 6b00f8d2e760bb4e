"""Choose the ticks of an external episode and build its Steps from the topics' values at these ticks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.frames import delta_between, rotation_of, twists_of
from rldg_core.from_msg import NS_PER_S
from rldg_core.plausible import check_observation
from rldg_core.types import ExecutedAction, Float32, Float64, Observation, Source, Step
from rldg_data.episodes.gripper import at_start
from rldg_data.external.cutting import Cutout
from rldg_data.external.mapping import (
    ExternalMapping,
    TargetAction,
    TwistAction,
)
from rldg_data.external.topics import (
    Series,
)
from rldg_data.plausibility import Limits, gaps

MAX_REPEATED = 0.05
"""Maximum share of ticks without a camera frame of their own; above it the camera is slower than rate_hz."""


def choose_ticks(
    mapping: ExternalMapping, episode: Cutout, camera: Series, others: list[Series]
) -> tuple[NDArray[np.int64], int]:
    """Return stamps of the camera frames that become observations, and the number of grid ticks without one."""
    where = episode.where
    inside = [one.within(episode.begin_ns, episode.end_ns) for one in others]
    for one in inside:
        if not one.values:
            raise UserError(f"{where}: topic {one.topic}: no message in this episode")
    begin = max(int(one.stamps_ns[0]) for one in inside)
    end = min(int(one.stamps_ns[-1]) for one in inside) + int(_max_age_s(mapping) * NS_PER_S)
    end = min(end, episode.end_ns - 1)
    frames = camera.stamps_ns[(camera.stamps_ns >= begin) & (camera.stamps_ns <= end)]
    if len(frames) < 2:
        spans = "; ".join(f"{one.topic} {one.stamps_ns[0]} to {one.stamps_ns[-1]}" for one in inside)
        raise UserError(f"{where}: topics do not overlap in time: {spans}")
    period_ns = mapping.period_s * NS_PER_S
    grid = frames[0] + np.round(np.arange(int((frames[-1] - frames[0]) / period_ns + 0.5) + 1) * period_ns)
    later = np.clip(np.searchsorted(frames, grid), 1, len(frames) - 1)
    nearest = np.where(grid - frames[later - 1] <= frames[later] - grid, later - 1, later)
    chosen = np.unique(frames[nearest])
    repeated = len(grid) - len(chosen)
    advice = "" if episode.is_cut else "; if these are several episodes, cut them (`episodes` or `cut` in the mapping)"
    for problem in gaps((chosen - chosen[0]) / NS_PER_S, Limits()):
        if problem.severity == "error":
            raise UserError(f"{where}: topic {camera.topic}: {problem.message}{advice}")
    if repeated > MAX_REPEATED * len(grid):
        rate = (len(frames) - 1) / ((frames[-1] - frames[0]) / NS_PER_S)
        raise UserError(f"{where}: topic {camera.topic}: {rate:.2f} frames per second, rate_hz is {mapping.rate_hz:g}")
    if len(chosen) < 2:
        raise UserError(f"{where}: shorter than one step at rate_hz {mapping.rate_hz}")
    return chosen, repeated


def values_at_ticks(mapping: ExternalMapping, episode: Cutout, one: Series, ticks: NDArray[np.int64]) -> list[Any]:
    """Return the newest value at every tick. Raises UserError when it is too old."""
    limit_ns = _max_age_s(mapping) * NS_PER_S
    values = []
    for tick in ticks:
        index = one.newest(int(tick))
        age_ns = int(tick) - int(one.stamps_ns[index])
        if age_ns > limit_ns:
            raise UserError(
                f"{episode.where}: topic {one.topic}: no message for {age_ns / NS_PER_S:.3f} s before {tick}, "
                f"max_age_s is {limit_ns / NS_PER_S:.3f}"
            )
        values.append(one.values[index])
    return values


def _max_age_s(mapping: ExternalMapping) -> float:
    return mapping.max_age_s if mapping.max_age_s is not None else 2 * mapping.period_s


def actions_between(
    mapping: ExternalMapping,
    episode: Cutout,
    requested: Mapping[str, Series],
    ticks: NDArray[np.int64],
    poses: list[Float64],
    start_width_m: float,
) -> list[Float32]:
    """Return the normalised, unclipped actions of all ticks but the last.

    start_width_m: measured at the first tick, or NaN; decides the gripper's state before its first command.
    """
    config = mapping.action_config
    # Requests of the previous episode do not count; the gripper keeps its commanded state.
    series = requested["action"].within(episode.begin_ns, episode.end_ns)
    if series.newest(int(ticks[-1]) - 1) < 0:
        raise UserError(f"{episode.where}: topic {series.topic}: no message between the first and the last image")
    if "gripper" in requested and requested["gripper"].newest(int(ticks[-1]) - 1) < 0:
        raise UserError(f"{episode.where}: topic {requested['gripper'].topic}: no message before the last image")
    start = 2 * at_start(start_width_m) - 1
    actions = []
    for k, pose in enumerate(poses[:-1]):
        delta_tcp = _delta(mapping, series, int(ticks[k]), int(ticks[k + 1]), pose)
        action = list(config.from_delta_tcp(delta_tcp))
        if mapping.gripper_action:
            index = requested["gripper"].newest(int(ticks[k + 1]) - 1)
            action.append(requested["gripper"].values[index] if index >= 0 else start)
        actions.append(np.array(action, dtype=np.float32))
    return actions


def _delta(mapping: ExternalMapping, series: Series, start_ns: int, end_ns: int, pose: Float64) -> Float64:
    """Return the motion requested in [start, end) as a delta in tcp axes [m, rad]; zero without a request.

    A message with the stamp of the tick belongs to it: many stacks copy the stamp of the observation.
    """
    action = mapping.action
    newest = series.newest(end_ns - 1)
    if isinstance(action, TargetAction):
        # A target is valid until the next one.
        return delta_between(pose, series.values[newest]) if newest >= 0 else np.zeros(6)
    requested = series.values[series.newest(start_ns - 1) + 1 : newest + 1]
    if not requested:
        return np.zeros(6)
    if isinstance(action, TwistAction):
        delta = np.mean(requested, axis=0) * ((end_ns - start_ns) / NS_PER_S)
    else:
        delta = requested[-1] * ([action.unit_m] * 3 + [action.unit_rad] * 3)
    if action.frame == "base":
        into_tcp = rotation_of(pose).inv()
        delta = np.concatenate([into_tcp.apply(delta[:3]), into_tcp.apply(delta[3:])])
    return np.asarray(delta, dtype=np.float64)


def build_steps(
    mapping: ExternalMapping,
    episode: Cutout,
    ticks: NDArray[np.int64],
    images: Mapping[str, list[bytes]],
    seen: Mapping[str, list[Any]],
    actions: list[Float32],
) -> list[Step]:
    """Steps of one episode. images: camera -> a JPEG file per tick; seen: what was observed per tick.

    Raises UserError naming the step with implausible values.
    """
    twists = twists_of((ticks - ticks[0]) / NS_PER_S, seen["pose"])
    last = len(ticks) - 1
    width = mapping.gripper_width.scale if mapping.gripper_width else 1.0
    success = mapping.success if episode.success is None else episode.success
    steps = []
    for k, tick in enumerate(map(int, ticks)):
        requested = actions[k] if k < last else np.empty(0, np.float32)
        executed = np.clip(requested, -1, 1)
        ending = k >= last - 1
        seen_now = Observation(
            stamp_ns=tick,
            images={name: files[k] for name, files in images.items()},
            pose_base_tcp=seen["pose"][k],
            twist_base_tcp=twists[k],
            wrench_tcp=seen["wrench"][k] if "wrench" in seen else np.zeros(6),
            joint_positions=seen["joints"][k] if "joints" in seen else np.empty(0),
            gripper_width_m=seen["gripper_width"][k] * width if "gripper_width" in seen else float("nan"),
        )
        try:
            check_observation(seen_now)
        except ValueError as error:
            raise UserError(f"{episode.where}: step {k} (stamp {tick} ns): {error}") from error
        steps.append(
            Step(
                episode_id=f"import/{episode.name}",
                index=k,
                step_count=k,
                task=mapping.task,
                object=episode.object or mapping.object,
                instruction=episode.instruction or mapping.instruction,
                seed=0,
                observation=seen_now,
                action=ExecutedAction(
                    observation_stamp_ns=tick,
                    requested=requested,
                    executed=executed,
                    source=Source[mapping.source.upper()] if k < last else Source.NONE,
                    action_clipped=bool(np.any(requested != executed)),
                ),
                reward=float(success and k == last - 1),
                terminated=success and ending,
                truncated=not success and ending,
                is_first=k == 0,
                is_last=k == last,
                success=success and ending,
            )
        )
    return steps


def wrench_in_tcp(pose: Float64, wrench: Float64) -> Float64:
    """Rotate a wrench (6,) from base axes into tcp axes."""
    into_tcp = rotation_of(pose).inv()
    return np.concatenate([into_tcp.apply(wrench[:3]), into_tcp.apply(wrench[3:])])
