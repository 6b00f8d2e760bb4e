"""Import a LeRobot dataset v3 as bags."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import Image, crop, encode_jpeg, resize
from rldg_core.instructions import fault
from rldg_core.plausible import check_observation
from rldg_core.task import Task
from rldg_core.types import ExecutedAction, Observation, Source, Step
from rldg_data.bags.episode_info import ImportedTask
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.episode import IMAGE_KEY, Episode, Float32
from rldg_data.episodes.gripper import MIN_SPAN, switching
from rldg_data.episodes.provenance import parts
from rldg_data.lerobot.components import FeatureNames
from rldg_data.lerobot.reading import read_dataset
from rldg_data.motion import motion, twist
from rldg_data.plausibility import Limits, gaps, jumps, outcome, refuse
from rldg_data.plausibility import clipped as clipped_actions

ROUNDING = 1e-4
"""Tolerance above 1 for rounding; values beyond it count as clipped."""
FIRST_STAMP_NS = 1_000_000_000
MAX_STAMP_S = 1e6
"""Maximum length of an episode: eleven days."""


@dataclass(frozen=True)
class ImportResult:
    """episodes: bags written; steps: in them, last ones included; skipped: (episode, reason) left out by skip_bad;
    clipped: values of actions beyond the task's [-1, 1]; bags: their paths; rate_hz: of the
    dataset, stored in the bags."""

    episodes: int
    steps: int
    skipped: tuple[tuple[int, str], ...]
    clipped: int
    bags: tuple[Path, ...]
    rate_hz: float


def import_dataset(
    path: Path, bag_dir: Path, task: Task, names: FeatureNames | None = None, *, skip_bad: bool = False
) -> ImportResult:
    """Write every episode of a LeRobot dataset as the next bag of `bag_dir`.

    Actions are divided by the task's scale and clipped to [-1, 1]. Images keep their size when they are square, others
    are cropped around the middle and resized to the camera's. The default source of actions is human.
    Raises UserError, after removing the bags already written.
    """
    dataset = read_dataset(path, names, (task.action.scale_m, task.action.scale_rad))
    if task.action.gripper and not dataset.has_gripper:
        raise UserError(f"{path}: {dataset.names.action}: no gripper, task {task.name} has one")
    keys = tuple(dataset.images.values())
    cameras = camera_names(keys, task, mapped=bool(names and names.images))

    def encode(key: str, frame: Image) -> bytes:
        camera = task.cameras[cameras[key]]
        side = min(frame.shape[:2])
        if frame.shape[:2] != (side, side):
            top, left = (frame.shape[0] - side) // 2, (frame.shape[1] - side) // 2
            frame = resize(crop(frame, left, top, side, side), camera.image_size)
        return encode_jpeg(frame, camera.jpeg_quality)

    bags: list[Path] = []
    skipped: list[tuple[int, str]] = []
    steps = clipped = 0
    stamp_ns = FIRST_STAMP_NS
    try:
        for number, read in enumerate(dataset.deferred(encode=encode)):
            try:
                where = f"{path}: episode {number}"
                episode = read()
                written, over = to_steps(episode, task, cameras, stamp_ns, steps - len(bags), where)
            except UserError as error:
                if not skip_bad:
                    raise
                skipped.append((number, str(error)))
                continue
            views = _views(episode, cameras)
            described = ImportedTask(task.name, task.action, dataset.info.fps, views, task.config_hash())
            bags.append(write_episode(bag_dir, written, described))
            steps += len(written)
            clipped += over
            stamp_ns = written[-1].observation.stamp_ns + 1_000_000_000
    except BaseException:
        for bag in bags:
            shutil.rmtree(bag)
        raise
    return ImportResult(len(bags), steps, tuple(skipped), clipped, tuple(bags), dataset.info.fps)


def camera_names(keys: Sequence[str], task: Task, mapped: bool = False) -> dict[str, str]:
    """Map image keys to cameras of the task: same name; for "image", or a single one, the task's first.

    mapped: cameras were named explicitly, so only names count. Raises UserError on an unknown camera.
    """
    first = next(iter(task.cameras))
    cameras = {}
    for key in keys:
        if key not in task.cameras and (mapped or (key != IMAGE_KEY and len(keys) > 1)):
            known = ", ".join(task.cameras)
            raise UserError(f"task {task.name}: no camera {key!r}, it has {known}; map the image features to cameras")
        cameras[key] = key if key in task.cameras else first
    if len(set(cameras.values())) < len(cameras):
        raise UserError(f"task {task.name}: two images for one camera: {', '.join(keys)}; map the image features")
    return cameras


def to_steps(
    episode: Episode, task: Task, cameras: Mapping[str, str], stamp_ns: int, step_count: int, where: str
) -> tuple[list[Step], int]:
    """Return (Steps, number of clipped values of actions). stamp_ns: of the first observation; where: for messages.

    Raises UserError on an episode of another task, an unknown source or stamps that do not increase.
    """
    metadata = episode.metadata
    if metadata["task"] not in ("", task.name):
        raise UserError(f"{where}: has task {metadata['task']!r}, importing as {task.name!r}")
    if reason := fault(episode.instruction):
        raise UserError(f"{where}: instruction: {reason}")
    if metadata["source"] not in {source.name.lower() for source in Source}:
        raise UserError(f"{where}: source {metadata['source']!r} is unknown")
    source = Source[metadata["source"].upper()]
    if not re.fullmatch(r"\d{1,20}", metadata["seed"]) or int(metadata["seed"]) >= 2**64:
        raise UserError(f"{where}: seed {metadata['seed']!r}: expected an unsigned 64-bit number")
    if metadata["policy_version"] < 0:
        raise UserError(f"{where}: policy_version {metadata['policy_version']}: expected 0 or more")
    if not 0 <= episode.timestamp_s.min() <= episode.timestamp_s.max() < MAX_STAMP_S:
        raise UserError(f"{where}: stamp_s: expected 0 .. {MAX_STAMP_S} s")
    stamps = stamp_ns + np.rint(episode.timestamp_s.astype(np.float64) * 1e9).astype(np.int64)
    if (np.diff(stamps) <= 0).any():
        raise UserError(f"{where}: stamps do not increase")
    _check(episode, task, where)
    refuse(outcome(episode.reward[:-1], bool(metadata["success"])), where)
    object_name = metadata["object"] or task.default_object
    if reason := fault(object_name):
        raise UserError(f"{where}: object: {reason}")
    actions, clipped = normalised(episode, task, where)
    last = len(episode) - 1
    terminal = bool(episode.is_terminal[-1])
    steps = []
    for index in range(len(episode)):
        ends = index >= last - 1
        action = np.empty(0, np.float32) if index == last else actions[index]
        seen = Observation(
            stamp_ns=int(stamps[index]),
            images={cameras[key]: jpegs[index] for key, jpegs in episode.images.items()},
            pose_base_tcp=episode.state[index, :7].astype(np.float64),
            twist_base_tcp=episode.twist[index].astype(np.float64),
            wrench_tcp=episode.wrench[index].astype(np.float64),
            joint_positions=np.empty(0),
            gripper_width_m=float(episode.state[index, 7]),
        )
        try:
            check_observation(seen)
        except ValueError as error:
            raise UserError(f"{where}: frame {index}: {error}") from error
        answer = ExecutedAction(
            observation_stamp_ns=int(stamps[index]),
            requested=action,
            executed=action,
            source=Source.NONE if index == last else source,
            policy_id="" if index == last else metadata["policy_id"],
            policy_version=0 if index == last else metadata["policy_version"],
        )
        steps.append(
            Step(
                episode_id=metadata["episode_id"],
                index=index,
                step_count=step_count + index,
                task=task.name,
                object=object_name,
                instruction=episode.instruction,
                seed=int(metadata["seed"]),
                observation=seen,
                action=answer,
                reward=float(episode.reward[index]),
                terminated=ends and terminal,
                truncated=ends and not terminal,
                is_first=index == 0,
                is_last=index == last,
                success=ends and bool(metadata["success"]),
            )
        )
    return steps, clipped


def _check(episode: Episode, task: Task, where: str) -> None:
    """Refuse data that cannot be one episode of this task."""
    stamps_s = episode.timestamp_s.astype(np.float64)
    longest_m, longest_rad = task.action.scale_m * 3**0.5, task.action.scale_rad * 3**0.5
    refuse(gaps(stamps_s, Limits()), where)
    refuse(jumps(stamps_s, episode.state[:, :7], Limits(), longest_m, longest_rad), where)
    refuse(motion(episode.state[:, :7], episode.action[:-1, :6], Limits()), where)
    refuse(twist(stamps_s, episode.state[:, :7], episode.twist, Limits()), where)
    opening = episode.action[:-1, 6]
    if not task.action.gripper and len(opening) and float(np.ptp(opening)) > MIN_SPAN:
        raise UserError(f"{where}: its actions move a gripper, task {task.name} has none")


def _views(episode: Episode, cameras: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Camera -> its view, if stored in the dataset (of this suite) and the images kept their size."""
    try:
        images = next((part.get("images") or {} for part in parts(episode.metadata)), {})
    except ValueError:  # a dataset of another suite
        return {}
    known = {}
    for key, camera in cameras.items():
        view = (images.get(key) or {}).get("view")
        if isinstance(view, dict):
            known[camera] = view
    return known


def normalised(episode: Episode, task: Task, where: str) -> tuple[list[Float32], int]:
    """Actions (6,) or, where the task has a gripper, (7,) in [-1, 1], and the number of clipped values.

    Raises UserError when too many are clipped, or the gripper's values are out of range.
    """
    last = len(episode) - 1
    motion = task.action.to_delta_tcp(np.ones(6))
    values: list[NDArray[np.floating]] = [episode.action[:last, :6].astype(np.float64) / motion]
    if task.action.gripper:
        try:
            values.append(switching(episode.action[:last, 6].astype(np.float64), "gripper")[:, None])
        except ValueError as error:
            raise UserError(f"{where}: {error}: set gripper_closed_open in the names file") from error
    unclipped = np.concatenate(values, axis=1)
    beyond = np.abs(unclipped) > 1 + ROUNDING
    refuse(clipped_actions(beyond.any(axis=1), Limits()), where)
    clipped = int(beyond.sum())
    return list(np.clip(unclipped, -1, 1).astype(np.float32)), clipped
