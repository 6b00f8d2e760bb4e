"""Labelled frames of bags and folders, and their split by episode.

A folder of collected frames holds <folder>/positive/*.jpg and <folder>/negative/*.jpg, named <episode>__<stamp>.jpg.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rldg_core.errors import UserError
from rldg_core.files import MAX_TEXT_BYTES, read_bytes, sha256_hex, write_bytes
from rldg_core.seeding import derive_seed
from rldg_core.task import Task
from rldg_core.types import Float64, Step
from rldg_data.bags.reading import episode_info, find_bags, read_episode
from rldg_rl.views import check_bag_view, check_frames, check_size

CLASSES = {"positive": True, "negative": False}
_SEPARATOR = "__"


@dataclass(frozen=True)
class Frame:
    """One camera image with its label.

    jpeg: as the observer encoded it; where: file or bag, for error messages; pose_base_tcp (7,) [m, xyzw], or None
    for frames out of a folder.
    """

    episode_id: str
    stamp_ns: int
    jpeg: bytes
    success: bool
    object: str
    where: str
    pose_base_tcp: Float64 | None = None


class Split(NamedTuple):
    """Frames to train on and frames of other episodes to calibrate and measure on."""

    train: list[Frame]
    held_out: list[Frame]


def frames_of_steps(steps: Sequence[Step], camera: str, where: str, ignored_before_success: int = 0) -> list[Frame]:
    """Return the labelled frames of an episode: the last Step of a success is positive, all others are negative.

    ignored_before_success: number of Steps before a success to leave out. An operator ends an episode some frames after
    the task has succeeded, and those frames would be negatives that show success; ground truth needs none left out.
    Raises UserError when a Step has no image of the camera.
    """
    success = steps[-1].success
    frames = []
    for step in steps:
        if success and 0 < len(steps) - 1 - step.index <= ignored_before_success:
            continue
        if camera not in step.observation.images:
            raise UserError(f"{where}: Step {step.index} holds no image of camera {camera!r}")
        image, stamp_ns = step.observation.images[camera], step.observation.stamp_ns
        pose = step.observation.pose_base_tcp
        frames.append(Frame(step.episode_id, stamp_ns, image, success and step.is_last, step.object, where, pose))
    return frames


def read_frames(sources: Iterable[Path], task: Task, camera: str, ignored_before_success: int = 0) -> list[Frame]:
    """Read folders of bags, single bags and folders of collected frames; a frame given twice counts once.

    Raises UserError on a missing or damaged source, an episode of another task, images of another camera, view or size
    than the task's, or an image that is not named as collected frames are.
    """
    frames: dict[tuple[str, str], Frame] = {}
    for source in sources:
        for frame in _read(source, task, camera, ignored_before_success):
            check_size(f"{frame.where}: frame at {frame.stamp_ns} ns", frame.jpeg, task, camera)
            frames.setdefault((frame.episode_id, sha256_hex(frame.jpeg)), frame)
    return list(frames.values())


def _read(source: Path, task: Task, camera: str, ignored_before_success: int) -> list[Frame]:
    if not source.is_dir():
        raise UserError(f"{source}: no such folder of bags or frames")
    if any((source / name).is_dir() for name in CLASSES):
        check_frames(source, task, camera)
        return read_folder(source)
    bags = [source] if (source / "metadata.yaml").is_file() else find_bags(source)
    if not bags:
        raise UserError(f"{source}: holds neither bags nor folders positive and negative")
    frames = []
    for bag in bags:
        steps = read_episode(bag)
        if steps[0].task != task.name:
            raise UserError(f"{bag}: episode of task {steps[0].task!r}, the classifier is for {task.name!r}")
        check_bag_view(bag, episode_info(bag), task, camera)
        frames += frames_of_steps(steps, camera, str(bag), ignored_before_success)
    return frames


def read_folder(folder: Path) -> list[Frame]:
    """Read collected frames, ordered by name. Raises UserError on a name without episode and stamp."""
    frames = []
    for name, success in CLASSES.items():
        for path in sorted((folder / name).glob("*.jpg")):
            head, separator, stamp = path.stem.rpartition(_SEPARATOR)
            if not separator or not head or not stamp.isdigit():
                raise UserError(f"{path}: expected <episode>{_SEPARATOR}<stamp>.jpg")
            frames.append(
                Frame(head.replace("~", "/"), int(stamp), read_bytes(path, MAX_TEXT_BYTES), success, "", str(path))
            )
    return frames


def write_frame(folder: Path, frame: Frame) -> Path:
    """Write one frame into a folder of collected frames, atomically; returns its path."""
    name = f"{frame.episode_id.replace('/', '~')}{_SEPARATOR}{frame.stamp_ns}.jpg"
    path = folder / ("positive" if frame.success else "negative") / name
    write_bytes(path, frame.jpeg)
    return path


def split_by_episode(frames: Sequence[Frame], held_out: float, seed: int) -> Split:
    """Split frames by episode: hold out a share of the episodes with a success and of those without, at least one each.

    The split depends on episode ids and seed, not on the order of the frames. Raises UserError when a class is missing
    or only one episode holds it.
    """
    positive = {f.episode_id for f in frames if f.success}
    negative = {f.episode_id for f in frames if not f.success}
    for name, episodes in (("positive", positive), ("negative", negative)):
        if not episodes:
            raise UserError(f"no {name} frames: a classifier needs both classes")
        if len(episodes) < 2:
            raise UserError(f"all {name} frames are of episode {min(episodes)}: one to hold out is needed, record more")
    chosen: set[str] = set()
    for group in (positive, negative - positive):
        ranked = sorted(group, key=lambda episode: (derive_seed(seed, "held_out", episode), episode))
        chosen |= set(ranked[: min(len(group) - 1, max(1, round(held_out * len(group))))])
    split = Split([f for f in frames if f.episode_id not in chosen], [f for f in frames if f.episode_id in chosen])
    for part, name in ((split.train, "training"), (split.held_out, "held-out")):
        if len({f.success for f in part}) < 2:
            raise UserError(f"the {name} episodes hold one class only: record more episodes of both")
    return split
