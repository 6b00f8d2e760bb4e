"""Inputs of the network: two views of the wrist image, and the instruction as hashed n-grams."""

from __future__ import annotations

import re
import zlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rldg_core.errors import UserError, quoted
from rldg_core.image_codec import decode_jpeg, resize
from rldg_core.instructions import check_instruction
from rldg_policy.compact.config import ModelConfig

NGRAM = 3
MAX_TOKENS = 96


def views(jpeg: bytes, config: ModelConfig) -> NDArray[np.uint8]:
    """Decode a JPEG to (P, 3) uint8 RGB: the pixels of the downscaled image, then of the crop around the tip.

    Raises ValueError when the bytes are not an image.
    """
    image = resize(decode_jpeg(jpeg), config.image_size)
    tip = image[config.tip_y : config.tip_y + config.tip_px, config.tip_x : config.tip_x + config.tip_px]
    return np.concatenate([resize(image, config.whole_px).reshape(-1, 3), tip.reshape(-1, 3)])


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert (..., P, 3) uint8 to float in [0, 1]."""
    return torch.from_numpy(pixels).float() / 255.0


def view_images(pixels: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Split (N, P, 3) into the whole image and the crop, each (N, 3, S, S) with channels last in memory."""
    whole, tip = (
        part.reshape(len(pixels), side, side, 3).permute(0, 3, 1, 2)
        for part, side in (
            (pixels[:, : config.whole_px**2], config.whole_px),
            (pixels[:, config.whole_px**2 :], config.tip_px),
        )
    )
    return whole, tip


def mirrored(pixels: NDArray[np.uint8], config: ModelConfig) -> NDArray[np.uint8]:
    """Mirror both views of (..., P, 3) left to right."""
    parts = np.split(pixels, [config.whole_px**2], axis=-2)
    flipped = []
    for part, side in zip(parts, (config.whole_px, config.tip_px), strict=True):
        flipped.append(part.reshape(*part.shape[:-2], side, side, 3)[..., ::-1, :].reshape(part.shape))
    return np.concatenate(flipped, axis=-2)


def instruction_tokens(instruction: str, buckets: int) -> NDArray[np.int64]:
    """Return the hash buckets (96,) of an instruction: 1..buckets, padded with 0.

    Words and their letter trigrams are hashed. This needs no vocabulary, and an unseen instruction shares buckets with
    the seen ones it has words or parts of words in common with. Raises UserError on an instruction of which a part
    would be lost: letters or digits other than a-z and 0-9, or more than MAX_TOKENS words and trigrams.
    """
    check_instruction(instruction)
    unsupported = next((c for c in instruction.lower() if c.isalnum() and not c.isascii()), None)
    if unsupported:
        raise UserError(
            f"instruction: {quoted(instruction)}: the compact generalist reads only the letters a-z and digits, "
            f"not {unsupported!r}: use English, or openvla"
        )
    words = re.findall(r"[a-z0-9]+", instruction.lower())
    if not words:
        raise UserError(f"instruction: {quoted(instruction)}: contains no word")
    grams = [g for w in words for g in (w, *(f"#{w}#"[i : i + NGRAM] for i in range(len(w))))]
    if len(grams) > MAX_TOKENS:
        raise UserError(
            f"instruction: {quoted(instruction)}: {len(grams)} words and trigrams, the compact generalist takes "
            f"{MAX_TOKENS} (about 90 letters): shorten it"
        )
    tokens = [1 + zlib.crc32(gram.encode()) % buckets for gram in grams]
    return np.array(tokens + [0] * (MAX_TOKENS - len(tokens)), dtype=np.int64)
