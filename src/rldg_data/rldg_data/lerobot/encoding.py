"""Encode one planned episode for LeRobot: rows, final observation, videos. Runs in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import Image, decode_jpeg, encode_jpeg, resize
from rldg_data.episodes.build import build_episode
from rldg_data.episodes.episode import Episode
from rldg_data.lerobot.layout import IMAGE_PREFIX
from rldg_data.lerobot.stats import Counts, count_pixels
from rldg_data.lerobot.video import encode_h264
from rldg_data.plan import EpisodePlan, ImageFormat
from rldg_data.plausibility import Limits, usual_period_s

RATE_TOLERANCE = 0.05
"""Relative tolerance of the measured rate: LeRobot has one integer frame rate per dataset."""


MAX_FPS = 1000


@dataclass(frozen=True)
class EncodedEpisode:
    """The T frames of an episode, independent of its place in the dataset.

    columns: by name of the feature, T rows; final: the last Step's values, images as JPEG, by name of the feature;
    pixels: image feature -> histogram; videos: image feature -> raw h264 file; shapes: -> (height, width) [px].
    """

    fps: int
    shapes: Mapping[str, tuple[int, int]]
    columns: Mapping[str, NDArray[Any]]
    final: Mapping[str, Any]
    pixels: Mapping[str, Counts]
    videos: Mapping[str, Path]
    instruction: str
    metadata: Mapping[str, Any]

    def __len__(self) -> int:
        """Number of frames, T."""
        return len(self.columns["action"])


def encode_episode(plan: EpisodePlan, stem: Path) -> EncodedEpisode:
    """Build and encode one episode. stem: where the video streams go, `<stem>.<key>.h264`.

    Raises UserError naming the bag when the episode cannot be stored in LeRobot; its streams are then removed.
    """
    # Resized here, not in build_episode, so that images are compressed only once, as video.
    episode = build_episode(replace(plan, images=ImageFormat()))
    transitions = len(episode) - 1
    if transitions < 1:
        raise UserError(f"{plan.name}: no transition: a LeRobot frame needs an action")
    fps = frames_per_second(episode.timestamp_s, plan.name)
    shapes: dict[str, tuple[int, int]] = {}
    pixels, videos, final = {}, {}, _final(episode)
    try:
        for key, jpegs in episode.images.items():
            name = IMAGE_PREFIX + key
            first = _decode(jpegs[0], plan)
            counts = np.zeros((3, 256), dtype=np.int64)
            videos[name] = stem.with_name(f"{stem.name}.{key}.h264")
            shapes[name] = first.shape[0], first.shape[1]
            frames = _counted(_frames(jpegs[:-1], first.shape, plan), counts)
            encode_h264(videos[name], frames, *shapes[name], fps)
            pixels[name] = counts
            last = next(_frames(jpegs[-1:], first.shape, plan))
            resized = plan.images.size_px is not None
            final[name] = encode_jpeg(last, plan.images.jpeg_quality) if resized else jpegs[-1]
    except BaseException:
        for path in videos.values():
            path.unlink(missing_ok=True)
        raise
    return EncodedEpisode(
        fps, shapes, _columns(episode, fps), final, pixels, videos, episode.instruction, episode.metadata
    )


def frames_per_second(timestamp_s: NDArray[np.float32], name: str) -> int:
    """Return the integer frame rate of an episode's stamps.

    Raises UserError when their mean rate is more than RATE_TOLERANCE off a whole number, or beyond MAX_FPS.
    """
    period_s = usual_period_s(timestamp_s, Limits())
    rate = 1 / max(period_s, 1e-9)
    fps = max(1, round(rate))
    if fps > MAX_FPS or abs(rate - fps) > RATE_TOLERANCE * fps:
        raise UserError(f"{name}: {rate:.2f} observations per second: expected an integer, at most {MAX_FPS}")
    return fps


def _decode(jpeg: bytes, plan: EpisodePlan) -> Image:
    try:
        image = decode_jpeg(jpeg)
    except ValueError as error:
        raise UserError(f"{plan.name}: corrupt image: {error}") from error
    image = image if plan.images.size_px is None else resize(image, plan.images.size_px)
    if image.shape[0] % 2 or image.shape[1] % 2:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise UserError(f"{plan.name}: images of {size} px: video needs even sides; set images.size_px")
    return image


def _frames(jpegs: list[bytes], shape: tuple[int, ...], plan: EpisodePlan) -> Iterator[Image]:
    for jpeg in jpegs:
        image = _decode(jpeg, plan)
        if image.shape != shape:
            raise UserError(
                f"{plan.name}: images of different sizes {sorted({image.shape[:2], shape[:2]})} in one episode"
            )
        yield image


def _counted(frames: Iterator[Image], counts: Counts) -> Iterator[Image]:
    for frame in frames:
        counts += count_pixels(frame)
        yield frame


def _columns(episode: Episode, fps: int) -> dict[str, NDArray[Any]]:
    """Return the rows of the T transitions; the writer adds the columns that depend on the place in the dataset."""
    frames = len(episode) - 1
    ends = np.arange(frames) == frames - 1
    terminal = bool(episode.is_terminal[-1])
    return {
        "observation.state": episode.state[:-1],
        "observation.twist": episode.twist[:-1],
        "observation.wrench": episode.wrench[:-1],
        "action": episode.action[:-1],
        "next.reward": episode.reward[:-1],
        "next.done": ends,
        "next.truncated": ends & (not terminal),
        "next.success": ends & bool(episode.metadata["success"]),
        "stamp_s": episode.timestamp_s[:-1],
        "timestamp": (np.arange(frames) / fps).astype(np.float32),
        "frame_index": np.arange(frames),
    }


def _final(episode: Episode) -> dict[str, Any]:
    return {
        "observation.state": episode.state[-1],
        "observation.twist": episode.twist[-1],
        "observation.wrench": episode.wrench[-1],
        "action": episode.action[-1],
        "next.reward": episode.reward[-1],
        "stamp_s": episode.timestamp_s[-1],
    }
