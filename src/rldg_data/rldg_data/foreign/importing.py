"""Bags of other people -> episodes: what is recorded as image, pose and action or target becomes Steps.

Ticks are camera frames: of a grid at `rate_hz` the nearest frame of the first camera, each once. At a tick the newest
message of every other topic counts, as it would have for a live observer; the action is what was asked for between
this tick and the next one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.from_msg import NS_PER_S
from rldg_core.types import Float32, Float64, Step
from rldg_data.bags.episode_info import ImportedTask
from rldg_data.bags.recording import write_episode
from rldg_data.foreign.actions import actions_between
from rldg_data.foreign.cutting import Cutout, at_events, at_gaps, ranges
from rldg_data.foreign.images import Frames, camera_frames
from rldg_data.foreign.mapping import (
    CameraMapping,
    ForeignMapping,
    load_mapping,
)
from rldg_data.foreign.reading import read_series
from rldg_data.foreign.stepping import into_tcp, steps_of
from rldg_data.foreign.ticks import at_ticks, choose_ticks
from rldg_data.foreign.topics import (
    ForeignBag,
    Series,
    opened,
    visit,
)
from rldg_data.motion import motion
from rldg_data.plausibility import Limits, clipped, gaps, jumps, refuse, stamp_offsets

__all__ = ["Imported", "import_bag", "load_mapping", "read_foreign"]

ROUNDING = 1e-4
"""How far over 1 an action may lie by rounding alone."""


@dataclass(frozen=True)
class Imported:
    """path: the bag written; steps: its Steps; clipped: actions that left [-1, 1]; repeated: ticks left out."""

    path: Path
    steps: int
    clipped: int
    repeated: int


@dataclass(frozen=True)
class Found:
    """An episode of a foreign bag. repeated: ticks without a frame of their own; views: camera -> its view."""

    steps: list[Step]
    repeated: int
    views: Mapping[str, Mapping[str, Any]]


def import_bag(mapping: ForeignMapping, bag: Path, out: Path) -> list[Imported]:
    """Write the episodes of a foreign bag as the next bags of `out`.

    Raises UserError naming the bag, and topic or field, when it does not fit the mapping or cannot be what the mapping
    says (`rldg_data.plausibility`); nothing is written then.
    """
    written: list[Imported] = []
    try:
        for found in read_foreign(mapping, bag):
            steps = found.steps
            task = ImportedTask(mapping.task, mapping.action_config, mapping.rate_hz, found.views, mapping.hash())
            clipped = sum(step.action.action_clipped for step in steps)
            written.append(Imported(write_episode(out, steps, task), len(steps), clipped, found.repeated))
    except BaseException:
        for one in written:
            shutil.rmtree(one.path)
        raise
    return written


def read_foreign(mapping: ForeignMapping, path: Path) -> list[Found]:
    """The episodes of a foreign bag. Raises UserError as `import_bag`."""
    with opened(path, mapping.stamps == "header") as bag:
        cameras = {
            name: bag.read(camera.topic, lambda *known: known[-1], camera.offset_s)
            for name, camera in mapping.cameras.items()
        }
        first = next(iter(cameras.values()))
        bag.follow_clock(first)
        series = read_series(mapping, bag, path)
        observed = [*series["seen"].values(), *cameras.values()]
        episodes = _episodes(mapping, bag, path, first, series["seen"]["pose"])
        planned = [(episode, *choose_ticks(mapping, episode, first, observed)) for episode in episodes]
        _check_stamps(mapping, path, [*observed, *series["asked"].values()])
        ticks = np.concatenate([each for _, each, _ in planned])
        frames = {
            name: camera_frames(bag, camera, cameras[name], [cameras[name].newest(t) for t in ticks])
            for name, camera in mapping.cameras.items()
        }
    views = {name: _view(mapping.cameras[name], each) for name, each in frames.items()}
    found, begun = [], 0
    for episode, ticks, repeated in planned:
        seen = {name: at_ticks(mapping, episode, one, ticks) for name, one in series["seen"].items()}
        if mapping.wrench and mapping.wrench.frame == "base":
            seen["wrench"] = [into_tcp(*pair) for pair in zip(seen["pose"], seen["wrench"], strict=True)]
        for camera in cameras.values():
            at_ticks(mapping, episode, camera, ticks)  # a further camera may pause, too
        scale = mapping.gripper_width.scale if mapping.gripper_width else 1.0
        start_width_m = scale * seen.get("gripper_width", [float("nan")])[0]
        actions = actions_between(mapping, episode, series["asked"], ticks, seen["pose"], start_width_m)
        _check(episode, ticks, seen["pose"], actions, mapping)
        images = {name: each.files[begun : begun + len(ticks)] for name, each in frames.items()}
        begun += len(ticks)
        found.append(Found(steps_of(mapping, episode, ticks, images, seen, actions), repeated, views))
    return found


def _view(camera: CameraMapping, frames: Frames) -> dict[str, Any]:
    """As `rldg_core.task.CameraConfig.view`."""
    crop = camera.crop.model_dump(mode="json") if camera.crop else None
    return {"width": frames.width, "height": frames.height, "crop": crop, "image_size": camera.size_px}


def _episodes(mapping: ForeignMapping, bag: ForeignBag, path: Path, camera: Series, pose: Series) -> list[Cutout]:
    name = path.resolve().stem
    if mapping.episodes:
        given = mapping.episodes
        if given[-1].from_s * NS_PER_S + bag.start_ns >= camera.stamps_ns[-1]:
            length_s = (int(camera.stamps_ns[-1]) - bag.start_ns) / NS_PER_S
            raise UserError(f"{path}: episodes: from_s {given[-1].from_s:g}: the bag ends after {length_s:.3f} s")
        return ranges(given, path, name, bag.start_ns)
    if mapping.cut and mapping.cut.gap_s:
        return at_gaps([camera.stamps_ns, pose.stamps_ns], mapping.cut.gap_s, path, name)
    if mapping.cut:
        field, topic = mapping.cut.field, str(mapping.cut.topic)
        starts = bag.read(topic, lambda message, kind, _: visit(message, kind, field)[-1])
        return at_events(starts, path, name)
    return [Cutout(path, name)]


def _check_stamps(mapping: ForeignMapping, path: Path, used: list[Series]) -> None:
    limits = Limits()
    if mapping.max_stamp_offset_s is not None:
        limits = replace(limits, max_stamp_offset_s=mapping.max_stamp_offset_s)
    advice = "set `offset_s` of a topic whose driver stamps early or late, or `stamps: log`"
    for problem in stamp_offsets({one.topic: one.delay for one in used}, limits):
        raise UserError(f"{path}: topic {problem.message}; {advice}")


def _check(
    episode: Cutout,
    ticks: NDArray[np.int64],
    poses: list[Float64],
    actions: list[Float32],
    mapping: ForeignMapping,
) -> None:
    """Refuse what cannot be one episode of this task."""
    stamps_s = (ticks - ticks[0]) / NS_PER_S
    longest_m, longest_rad = mapping.scale_m * 3**0.5, mapping.scale_rad * 3**0.5
    advice = "" if episode.is_cut else "; if these are several, cut them (`episodes` or `cut` in the mapping)"
    for problem in [
        *gaps(stamps_s, Limits()),
        *jumps(stamps_s, np.array(poses), Limits(), longest_m, longest_rad),
    ]:
        if problem.severity == "error":
            raise UserError(f"{episode.where}: topic {mapping.pose.topic}: {problem.message}{advice}")
    deltas = [mapping.action_config.to_delta_tcp(action) for action in actions]
    refuse(motion(np.array(poses), np.array(deltas), Limits()), f"{episode.where}: topic {mapping.action.topic}")
    beyond = [bool((np.abs(action) > 1 + ROUNDING).any()) for action in actions]
    refuse(clipped(beyond, Limits()), f"{episode.where}: topic {mapping.action.topic}")
