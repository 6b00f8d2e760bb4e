"""Image augmentation of OpenVLA's and Octo's fine-tuning, as their loaders (dlimp on TensorFlow) compute it.

Images are (H, W, 3) uint8 RGB. Upstream draws all random numbers of one operation from the same seed, so both offsets
of a crop are equal and crops lie on the diagonal. OpenVLA's fork of dlimp uses a new seed for each operation; Octo's
dlimp reuses the first seed, so bright images also have high contrast, saturation and hue. Both behaviours are
reproduced, because fine-tuning should see the distribution of pre-training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

Image = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Range = tuple[float, float]


@dataclass(frozen=True)
class Augmentation:
    """Ranges of uniform random parameters, in order of application.

    crop_area, crop_ratio: area of the crop as a share of the image, and its width / height; the crop is resized to the
    size of the image; brightness: largest shift [0..1]; contrast, saturation: factors; hue: largest shift [turns];
    one_draw: a single random number determines all parameters (Octo).
    """

    crop_area: Range
    crop_ratio: Range
    brightness: float
    contrast: Range
    saturation: Range
    hue: float
    one_draw: bool


OPENVLA_AUGMENT = Augmentation((0.9, 0.9), (1.0, 1.0), 0.2, (0.8, 1.2), (0.8, 1.2), 0.05, one_draw=False)
"""openvla prismatic/vla/datasets/datasets.py, RLDSDataset with image_aug."""

OCTO_PRIMARY_AUGMENT = Augmentation((0.8, 1.0), (0.9, 1.1), 0.1, (0.9, 1.1), (0.9, 1.1), 0.05, one_draw=True)
"""octo scripts/configs/finetune_config.py, workspace_augment_kwargs."""


@dataclass(frozen=True)
class AugmentationParameters:
    """Parameters of one augmentation. box: top, left, bottom, right as shares of the image; rest: see Augmentation."""

    box: tuple[float, float, float, float]
    brightness: float
    contrast: float
    saturation: float
    hue: float


def draw(table: Augmentation, rng: np.random.Generator) -> AugmentationParameters:
    """Draw the parameters of one augmentation, from five random numbers or from one."""
    crop, brightness, contrast, saturation, hue = np.full(5, rng.random()) if table.one_draw else rng.random(5)
    area = _between(table.crop_area, crop)
    ratio = float(np.exp(_between((np.log(table.crop_ratio[0]), np.log(table.crop_ratio[1])), crop)))
    height, width = min((area / ratio) ** 0.5, 1.0), min((area * ratio) ** 0.5, 1.0)
    top, left = float(crop) * (1 - height), float(crop) * (1 - width)
    return AugmentationParameters(
        box=(top, left, top + height, left + width),
        brightness=_between((-table.brightness, table.brightness), brightness),
        contrast=_between(table.contrast, contrast),
        saturation=_between(table.saturation, saturation),
        hue=_between((-table.hue, table.hue), hue),
    )


def augment(images: Sequence[Image], table: Augmentation, rng: np.random.Generator) -> list[Image]:
    """Augment all images of one window with the same parameters."""
    outcome = draw(table, rng)
    return [apply(image, outcome) for image in images]


def apply(image: Image, outcome: AugmentationParameters) -> Image:
    """Crop and resize back, then brightness, contrast, saturation and hue; clipped to [0, 1] after each."""
    x = crop_and_resize(_to_float(image), outcome.box)
    _clip(np.add(x, np.float32(outcome.brightness), out=x))
    x *= np.float32(outcome.contrast)
    shift = np.array(cv2.mean(x)[:3], np.float32) * np.float32(1 / outcome.contrast - 1)
    rows = x.reshape(len(x), -1)
    rows += np.tile(shift, x.shape[1])  # along rows: numpy is slow when the last axis has length 3
    # Scaling the saturation changes neither hue nor value, so one conversion serves both.
    hsv = cv2.cvtColor(_clip(x), cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.minimum(hsv[..., 1] * np.float32(outcome.saturation), 1)
    angle = hsv[..., 0] + np.float32(360 * outcome.hue)
    hsv[..., 0] = angle - 360 * np.floor(angle / 360)
    return _to_uint8(np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), dtype=np.float32))


def centre_crop(image: Image, area: float = 0.9) -> Image:
    """Return the centre crop with a share `area` of the image, resized: inference after training with random crops."""
    side = area**0.5
    margin = (1 - side) / 2
    box = (margin, margin, margin + side, margin + side)
    return _to_uint8(crop_and_resize(_to_float(image), box))


def crop_and_resize(image: Float32, box: tuple[float, float, float, float]) -> Float32:
    """Return the box, resized bilinearly with aligned corners to the size of the image, as tf.image.crop_and_resize."""
    rows = _positions(box[0], box[2], image.shape[0])
    columns = _positions(box[1], box[3], image.shape[1])
    return _interpolate(_interpolate(image, *rows, axis=0), *columns, axis=1)


def resize_lanczos(image: Image, size: int) -> Image:
    """Resize to (size, size, 3) with Lanczos-3, antialiased when downscaling: dlimp's resize_image.

    OpenVLA's data loader resizes 256 to 224 this way before augmentation.
    """
    planes = [
        np.asarray(PillowImage.fromarray(plane).resize((size, size), PillowImage.Resampling.LANCZOS))
        for plane in np.moveaxis(image.astype(np.float32), -1, 0)
    ]
    resized: Image = np.clip(np.rint(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)
    return resized


def _between(bounds: Range, share: float) -> float:
    return float(bounds[0] + share * (bounds[1] - bounds[0]))


def _positions(begin: float, end: float, size: int) -> tuple[NDArray[np.int64], Float32]:
    """Return (lower pixel, weight of the upper pixel) of `size` positions from begin to end."""
    position = np.linspace(begin * (size - 1), end * (size - 1), size).clip(0, size - 1)
    below = np.minimum(position.astype(np.int64), size - 2)
    return below, (position - below).astype(np.float32)


def _interpolate(image: Float32, below: NDArray[np.int64], share: Float32, axis: int) -> Float32:
    low, step = image.take(below, axis), image.take(below + 1, axis)
    step -= low
    step *= share.reshape((-1,) + (1,) * (2 - axis))
    low += step
    return low


def _to_float(image: Image) -> Float32:
    return image.astype(np.float32) / np.float32(255)


def _clip(x: Float32) -> Float32:
    """Clip to [0, 1], in place."""
    np.maximum(x, 0, out=x)
    np.minimum(x, 1, out=x)
    return x


def _to_uint8(x: Float32) -> Image:
    """Convert [0, 1] to 0..255 with the rounding of tf.image.convert_image_dtype: 256 intervals of equal width."""
    image: Image = (_clip(x) * np.float32(255.5)).astype(np.uint8)
    return image
