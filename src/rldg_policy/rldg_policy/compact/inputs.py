"""What the network sees: two views of the wrist image, and the instruction as hashed n-grams."""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

from rldg_core.image_codec import decode_jpeg, resize
from rldg_policy.compact.config import ModelConfig

NGRAM = 3
MAX_TOKENS = 96
VIEWS = 2


def views(jpeg: bytes, config: ModelConfig) -> NDArray[np.uint8]:
    """JPEG -> (2, S, S, 3) uint8 RGB: the whole image shrunk, and the window around the tip at full resolution.

    Raises ValueError when the bytes are no image.
    """
    image = resize(decode_jpeg(jpeg), config.image_size)
    size = config.view_px
    window = image[config.window_y : config.window_y + size, config.window_x : config.window_x + size]
    return np.stack([resize(image, size), window])


def instruction_tokens(instruction: str, buckets: int) -> NDArray[np.int64]:
    """Instruction -> (96,) bucket numbers 1..buckets, 0 where there is none.

    Words and their letter trigrams, hashed: needs no vocabulary, and an instruction that was never seen shares
    the buckets of the words and parts of words that it has in common with seen ones.
    """
    words = re.findall(r"[a-z0-9]+", instruction.lower())
    grams = [g for w in words for g in (w, *(f"#{w}#"[i : i + NGRAM] for i in range(len(w))))]
    tokens = [1 + zlib.crc32(gram.encode()) % buckets for gram in grams][:MAX_TOKENS]
    return np.array(tokens + [0] * (MAX_TOKENS - len(tokens)), dtype=np.int64)
