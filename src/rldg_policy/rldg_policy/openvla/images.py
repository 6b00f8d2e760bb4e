"""From an image to the six channels that the vision towers see, for serving and for training.

Sources: openvla processing_prismatic.py (resize-naive), datasets.py (dlimp's resize, then augmentation),
experiments/robot/openvla_utils.py (centre crop at inference).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PillowImage
from torch import Tensor

from rldg_core.image_codec import decode_jpeg
from rldg_policy.openvla.config import IMAGE_SIZE
from rldg_policy.training.augment import OPENVLA_AUGMENT, augment, centre_crop, resize_lanczos

Image = NDArray[np.uint8]

DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
"""ImageNet's, as bfloat16 rounds them: upstream's processor was saved so."""
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
_MEAN = np.array([*DINO_MEAN, *SIGLIP_MEAN], dtype=np.float32)[:, None, None]
_STD = np.array([*DINO_STD, *SIGLIP_STD], dtype=np.float32)[:, None, None]


def pixel_values(images: Sequence[Image]) -> Tensor:
    """(H, W, 3) uint8 RGB images -> (B, 6, 224, 224) float32: upstream's image processor.

    Bicubic resize to the square whatever the aspect ratio; DINOv2's normalisation above SigLIP's.
    """
    stacked = np.stack([np.concatenate([_chw(image)] * 2) for image in images])
    return torch.from_numpy((stacked - _MEAN) / _STD)


def serving_view(jpeg: bytes, crop: bool) -> Image:
    """JPEG -> the (224, 224, 3) image that a model sees when it acts. Raises ValueError when it is no image.

    Shrunk as in training; crop: the middle 90 % of the area, for models whose training images were random crops.
    """
    image = _shrink(decode_jpeg(jpeg))
    return centre_crop(image) if crop else image


def training_view(jpeg: bytes, rng: np.random.Generator | None) -> Image:
    """JPEG -> the (224, 224, 3) image that a model is trained on: shrunk, then augmented (None: not)."""
    image = _shrink(decode_jpeg(jpeg))
    return image if rng is None else augment([image], OPENVLA_AUGMENT, rng)[0]


def _shrink(image: Image) -> Image:
    return image if image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE) else resize_lanczos(image, IMAGE_SIZE)


def _chw(image: Image) -> NDArray[np.float32]:
    if image.shape[:2] != (IMAGE_SIZE, IMAGE_SIZE):
        square = PillowImage.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), PillowImage.Resampling.BICUBIC)
        image = np.asarray(square)
    return image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
