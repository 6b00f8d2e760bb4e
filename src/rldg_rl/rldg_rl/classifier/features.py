"""Computes the features of frames with a frozen encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg, resize
from rldg_rl.classifier.frames import Frame
from rldg_rl.classifier.model import ClassifierConfig
from rldg_rl.encoders.frozen import IMAGE_SIZE, FrozenEncoder, crops
from rldg_rl.encoders.loading import load_encoder

BATCH = 32
"""Images per call of the encoder: one batch size, one compilation."""


def encoder_of(config: ClassifierConfig) -> FrozenEncoder:
    """Return the frozen encoder of a configuration."""
    return load_encoder(config.encoder, Path(config.encoder_weights) if config.encoder_weights else None)


def frame_image(frame: Frame) -> NDArray[np.uint8]:
    """Return the image (128, 128, 3) uint8 RGB. Raises UserError naming the file or bag of a corrupt JPEG."""
    try:
        return resize(decode_jpeg(frame.jpeg), IMAGE_SIZE)
    except ValueError as error:
        raise UserError(f"{frame.where}: frame at {frame.stamp_ns} ns: {error}") from error


def encode_frames(
    frames: Sequence[Frame],
    encoder: FrozenEncoder,
    crop_count: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float16]:
    """Return features (N, crop_count, F); crop 0 is the frame itself. Raises UserError on a corrupt JPEG."""
    width = int(np.prod(encoder.feature_shape))
    features = np.empty((len(frames) * crop_count, width), np.float16)
    pending: list[NDArray[np.uint8]] = []
    done = 0
    for number, frame in enumerate(frames):
        pending += list(crops(frame_image(frame), crop_count, frame.stamp_ns))
        while len(pending) >= BATCH or (pending and number == len(frames) - 1):
            part, pending = pending[:BATCH], pending[BATCH:]
            padded = np.stack(part + [part[-1]] * (BATCH - len(part)))
            features[done : done + len(part)] = encoder.encode(padded)[: len(part)].reshape(len(part), width)
            done += len(part)
        progress(number + 1, len(frames))
    return features.reshape(len(frames), crop_count, width)
