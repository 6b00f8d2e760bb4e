"""Import external bags: recorded images, poses and actions or targets become Steps.

Ticks are camera frames: for a grid at `rate_hz`, the nearest frame of the first camera, each used once. At a tick the
newest message of every other topic is used, as by a live observer; the action is what was requested between this tick
and the next.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rldg_core import from_msg
from rldg_core.errors import UserError
from rldg_core.from_msg import NS_PER_S
from rldg_core.image_codec import crop, decode_jpeg, encode_jpeg, resize
from rldg_core.types import Float32, Float64, Step
from rldg_data.bags.episode_info import ImportedTask
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.gripper import switching
from rldg_data.external.cutting import Cutout, at_events, at_gaps, ranges
from rldg_data.external.frames import Frame, check_frame, frame_of
from rldg_data.external.mapping import (
    CameraMapping,
    ExternalMapping,
    GripperAction,
    PoseMapping,
    TargetAction,
    TopicMapping,
    TwistAction,
    load_mapping,
)
from rldg_data.external.steps import actions_between, build_steps, choose_ticks, values_at_ticks, wrench_in_tcp
from rldg_data.external.topics import (
    ExternalBag,
    Series,
    as_gripper,
    as_joints,
    as_numbers,
    as_pose,
    as_twist,
    as_width,
    as_wrench,
    opened,
    visit,
)
from rldg_data.motion import motion
from rldg_data.plausibility import Limits, clipped, gaps, jumps, refuse, stamp_offsets


def read_series(mapping: ExternalMapping, bag: ExternalBag, path: Path) -> dict[str, dict[str, Series]]:
    """seen: what belongs to an observation; requested: what belongs to an action."""

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
        requested = {"action": read(action, as_pose, "base")}
    elif isinstance(action, TwistAction):
        requested = {"action": read(action, as_twist, action.frame)}
    else:
        requested = {"action": read(action, lambda value: _delta_values(action, value))}
    if mapping.gripper_action:
        requested["gripper"] = _gripper_commands(
            mapping.gripper_action, by_name(mapping.gripper_action, as_gripper), path
        )
    return {"seen": seen, "requested": requested}


def _gripper_commands(gripper: GripperAction, values: Series, path: Path) -> Series:
    opened = (np.array(values.values) - gripper.closed) / (gripper.open - gripper.closed)
    try:
        commands = switching(opened, f"topic {gripper.topic}")
    except ValueError as error:
        given = f"open {gripper.open:g}, closed {gripper.closed:g}"
        raise UserError(f"{path}: {error} (gripper_action: {given})") from error
    return replace(values, values=commands.tolist())


def _delta_values(action: Any, value: Any) -> Float64:
    values = as_numbers(value)
    chosen = values[action.first : action.first + 6]
    if len(chosen) != 6:
        raise ValueError(f"{len(values)} numbers, expected six from index {action.first}")
    return chosen


class Frames(NamedTuple):
    """JPEG files, and the published width and height [px]."""

    files: list[bytes]
    width: int
    height: int


def camera_frames(bag: ExternalBag, camera: CameraMapping, stamps: Series, chosen: list[int]) -> Frames:
    """Convert the chosen frames (indices into stamps); all others are skipped.

    stamps: positions of the messages in the topic, in the order of their stamps. Raises UserError naming bag, topic
    and message on an unusable image, or one of another size than the first.
    """
    # A bag is read in log-time order, `chosen` indexes the order of stamps.
    wanted = {stamps.values[index] for index in chosen}
    sizes: list[tuple[int, int]] = []

    def take(message: Any, _type: str, number: int) -> bytes:
        if number not in wanted:
            return b""
        jpeg, size = to_jpeg(message, camera)
        if sizes and size != sizes[0]:
            raise ValueError(f"{size[0]}x{size[1]} px, the first one has {sizes[0][0]}x{sizes[0][1]}")
        sizes.append(size)
        return jpeg

    files = bag.read(camera.topic, take, camera.offset_s)
    return Frames([files.values[index] for index in chosen], *sizes[0])


def to_jpeg(message: Any, camera: CameraMapping) -> tuple[bytes, tuple[int, int]]:
    """sensor_msgs/Image or CompressedImage -> (JPEG, (width, height) of the message's image [px]).

    Raises ValueError on an unusable image.
    """
    if hasattr(message, "encoding"):
        image = from_msg.image(message)
    elif hasattr(message, "format"):
        data = bytes(memoryview(message.data))
        image = decode_jpeg(data)
        # 16 bits (a depth PNG) would silently be reduced to 8.
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] != 8:
            raise ValueError(f"a PNG of {data[24]} bits, expected 8")
        if data[:2] == b"\xff\xd8" and camera.crop is None and image.shape[:2] == (camera.size_px, camera.size_px):
            return data, (image.shape[1], image.shape[0])
    else:
        raise ValueError(f"{type(message).__name__} is not an image")
    size = (image.shape[1], image.shape[0])
    if camera.crop:
        image = crop(image, camera.crop.x, camera.crop.y, camera.crop.width, camera.crop.height)
    return encode_jpeg(resize(image, camera.size_px), camera.jpeg_quality), size


__all__ = ["ImportedBag", "import_bag", "load_mapping", "read_external"]

ROUNDING = 1e-4
"""Tolerance above 1 for rounding."""


@dataclass(frozen=True)
class ImportedBag:
    """path: the bag written; steps: its Steps; clipped: actions beyond [-1, 1]; repeated: ticks left out."""

    path: Path
    steps: int
    clipped: int
    repeated: int


@dataclass(frozen=True)
class ExternalEpisode:
    """An episode of an external bag. repeated: ticks without a frame of their own; views: camera -> its view."""

    steps: list[Step]
    repeated: int
    views: Mapping[str, Mapping[str, Any]]


def import_bag(mapping: ExternalMapping, bag: Path, out: Path) -> list[ImportedBag]:
    """Write the episodes of an external bag as the next bags of `out`.

    Raises UserError naming the bag, and topic or field, when it does not match the mapping or is implausible
    (`rldg_data.plausibility`); nothing is written then.
    """
    written: list[ImportedBag] = []
    try:
        for found in read_external(mapping, bag):
            steps = found.steps
            task = ImportedTask(mapping.task, mapping.action_config, mapping.rate_hz, found.views, mapping.hash())
            clipped = sum(step.action.action_clipped for step in steps)
            written.append(ImportedBag(write_episode(out, steps, task), len(steps), clipped, found.repeated))
    except BaseException:
        for one in written:
            shutil.rmtree(one.path)
        raise
    return written


def read_external(mapping: ExternalMapping, path: Path) -> list[ExternalEpisode]:
    """The episodes of an external bag. Raises UserError as `import_bag`."""
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
        _check_stamps(mapping, path, [*observed, *series["requested"].values()])
        ticks = np.concatenate([each for _, each, _ in planned])
        frames = {
            name: camera_frames(bag, camera, cameras[name], [cameras[name].newest(t) for t in ticks])
            for name, camera in mapping.cameras.items()
        }
    views = {name: _view(mapping.cameras[name], each) for name, each in frames.items()}
    found, begun = [], 0
    for episode, ticks, repeated in planned:
        seen = {name: values_at_ticks(mapping, episode, one, ticks) for name, one in series["seen"].items()}
        if mapping.wrench and mapping.wrench.frame == "base":
            seen["wrench"] = [wrench_in_tcp(*pair) for pair in zip(seen["pose"], seen["wrench"], strict=True)]
        for camera in cameras.values():
            values_at_ticks(mapping, episode, camera, ticks)  # further cameras may pause as well
        scale = mapping.gripper_width.scale if mapping.gripper_width else 1.0
        start_width_m = scale * seen.get("gripper_width", [float("nan")])[0]
        actions = actions_between(mapping, episode, series["requested"], ticks, seen["pose"], start_width_m)
        _check(episode, ticks, seen["pose"], actions, mapping)
        images = {name: each.files[begun : begun + len(ticks)] for name, each in frames.items()}
        begun += len(ticks)
        found.append(ExternalEpisode(build_steps(mapping, episode, ticks, images, seen, actions), repeated, views))
    return found


def _view(camera: CameraMapping, frames: Frames) -> dict[str, Any]:
    """As `rldg_core.task.CameraConfig.view`."""
    crop = camera.crop.model_dump(mode="json") if camera.crop else None
    return {"width": frames.width, "height": frames.height, "crop": crop, "image_size": camera.size_px}


def _episodes(mapping: ExternalMapping, bag: ExternalBag, path: Path, camera: Series, pose: Series) -> list[Cutout]:
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


def _check_stamps(mapping: ExternalMapping, path: Path, used: list[Series]) -> None:
    limits = Limits()
    if mapping.max_stamp_offset_s is not None:
        limits = replace(limits, max_stamp_offset_s=mapping.max_stamp_offset_s)
    advice = "set `offset_s` of the topic whose stamps are early or late, or `stamps: log`"
    for problem in stamp_offsets({one.topic: one.delay for one in used}, limits):
        raise UserError(f"{path}: topic {problem.message}; {advice}")


def _check(
    episode: Cutout,
    ticks: NDArray[np.int64],
    poses: list[Float64],
    actions: list[Float32],
    mapping: ExternalMapping,
) -> None:
    """Refuse data that cannot be one episode of this task."""
    stamps_s = (ticks - ticks[0]) / NS_PER_S
    longest_m, longest_rad = mapping.scale_m * 3**0.5, mapping.scale_rad * 3**0.5
    advice = "" if episode.is_cut else "; if these are several episodes, cut them (`episodes` or `cut` in the mapping)"
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
