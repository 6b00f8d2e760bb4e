"""Checks that bags and collected frames were recorded with the camera of a task: name, view and image size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import parse_json, read_json, write_json
from rldg_core.image_header import read_header
from rldg_core.task import Task
from rldg_data.bags.episode_info import EpisodeInfo

FRAMES_FILE = "frames.json"
"""File in a folder of collected frames that holds their task, camera and view."""


def check_view(where: object, found: Any, task: Task, camera: str) -> None:
    """Raise UserError when `found` (JSON of a `CameraConfig.view`) is not the view of the task's camera."""
    wanted = task.cameras[camera].view
    if found != wanted:
        raise UserError(
            f"{where}: camera {camera!r} shows {found}, that of task {task.name} {wanted}: record anew, or use the "
            "task file that it was recorded with"
        )


def check_bag_view(bag: Path, info: EpisodeInfo, task: Task, camera: str) -> None:
    """Raise UserError when a bag is of another view. Older bags do not hold it: see `check_size`."""
    if info.views:
        where = f"{bag}: custom_data.views"
        views = parse_json(info.views, where)
        if not isinstance(views, Mapping):
            raise UserError(f"{where}: expected a JSON object of cameras")
        check_view(bag, views.get(camera), task, camera)


def check_size(where: object, jpeg: bytes, task: Task, camera: str) -> None:
    """Raise UserError when an image is broken or has another size than those of the task's camera."""
    size = task.cameras[camera].image_size
    try:
        header = read_header(jpeg)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    if (header.height, header.width) != (size, size):
        raise UserError(
            f"{where}: {header.width}x{header.height} px, camera {camera!r} of task {task.name} gives {size}x{size} px"
        )


def describe_frames(folder: Path, task: Task, camera: str) -> None:
    """Write FRAMES_FILE into a folder of frames. Raises UserError when it holds frames of another camera or view."""
    if (folder / FRAMES_FILE).is_file():
        check_frames(folder, task, camera)
        return
    write_json(folder / FRAMES_FILE, {"task": task.name, "camera": camera, "view": task.cameras[camera].view})


def check_frames(folder: Path, task: Task, camera: str) -> None:
    """Raise UserError on a folder with frames of another task, camera or view; without FRAMES_FILE, accept it."""
    path = folder / FRAMES_FILE
    if not path.is_file():
        return
    said = read_json(path)
    if not isinstance(said, Mapping):
        raise UserError(f"{path}: expected a JSON object")
    for name, wanted in (("task", task.name), ("camera", camera)):
        if said.get(name) != wanted:
            raise UserError(f"{path}: frames of {name} {said.get(name)!r}, expected {wanted!r}")
    check_view(path, said.get("view"), task, camera)
