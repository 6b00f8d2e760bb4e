"""Check the pixels of an episode on a bounded sample of decoded frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rldg_data.episodes import jpeg
from rldg_data.plausibility import Limits, Problem, Problems


def pixels(images: Mapping[str, Sequence[bytes]], positions: NDArray[np.float64], limits: Limits) -> Problems:
    """Find images that do not decode, are blank, or repeat while the tcp moves. images: camera -> N JPEG files.

    positions (N, 3): of the tcp in base [m]. Files with a wrong structure (`rldg_data.episodes.jpeg`) are
    skipped: another check reports them. Of each camera at most `limits.decoded_frames` frames are decoded.
    """
    for camera, files in images.items():
        if len(files) != len(positions):
            continue
        found = [*_repeated(camera, files, positions, limits), *_of_camera(camera, files, positions, limits)]
        # One finding is enough: black images repeat as well.
        yield from sorted(found, key=lambda problem: (problem.severity != "error", problem.check != "pixels"))[:1]
    yield from _identical_cameras(images)


def _identical_cameras(images: Mapping[str, Sequence[bytes]]) -> Problems:
    seen: dict[tuple[bytes, ...], str] = {}
    for camera, files in images.items():
        first = seen.setdefault(tuple(files), camera)
        if first != camera:
            yield Problem("error", "pixels", f"{camera!r} and {first!r} are the same images: one topic for two cameras")


def _repeated(camera: str, files: Sequence[bytes], positions: NDArray[np.float64], limits: Limits) -> Problems:
    """Find identical files in steps that move: a camera at half the rate repeats every second one."""
    moving = np.flatnonzero(np.linalg.norm(np.diff(positions, axis=0), axis=1) > limits.seen_step_m).tolist()
    same = sum(files[k] == files[k + 1] for k in moving)
    if same > max(1, limits.max_repeated * len(moving)):
        hangs = same > limits.max_hanging * len(moving)
        found = f"{camera!r}: the image repeats in {same} of {len(moving)} steps in which the tcp moves"
        reason = "a camera that hangs" if hangs else "the camera hangs, or is slower than the steps"
        yield Problem("error" if hangs else "warning", "frozen", f"{found}: {reason}")


def _of_camera(camera: str, files: Sequence[bytes], positions: NDArray[np.float64], limits: Limits) -> Problems:
    # OpenCV is slow to import.
    from rldg_core.image_codec import decode_jpeg

    before: NDArray[np.int16] | None = None
    moved = stayed = 0
    last = 0
    for step in np.unique(np.linspace(0, len(files) - 1, limits.decoded_frames).round().astype(int)).tolist():
        try:
            height, width = jpeg.check(files[step])
        except ValueError:
            return
        try:
            image = decode_jpeg(files[step])
        except ValueError as error:
            yield Problem("error", "pixels", f"{camera!r} of step {step}: {error}")
            return
        if image.shape[:2] != (height, width):
            found = f"{image.shape[1]}x{image.shape[0]} px when decoded, {width}x{height} px by its header"
            yield Problem("error", "pixels", f"{camera!r} of step {step}: {found}")
            return
        spread = float(image.mean(axis=2).std())
        if spread < limits.min_contrast:
            level = image.mean()
            found = f"uniform brightness ({level:.0f} of 255, standard deviation {spread:.2g})"
            yield Problem("error", "pixels", f"{camera!r} of step {step}: {found}: covered lens or no camera")
            return
        now = image.astype(np.int16)
        path_m = float(np.linalg.norm(np.diff(positions[last : step + 1], axis=0), axis=1).sum())
        if before is not None and before.shape == now.shape and path_m > limits.seen_motion_m:
            moved += 1
            stayed += float(np.mean(np.abs(now - before).max(axis=2) > limits.min_change)) < limits.min_changed
        before, last = now, step
    if moved >= limits.min_moved_frames and stayed > limits.max_hanging * moved:
        found = f"{camera!r}: the image repeats in {stayed} of {moved} pairs of decoded frames"
        yield Problem("error", "frozen", f"{found} while the tcp moves: the camera hangs")
