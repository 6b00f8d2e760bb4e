"""Inputs of OpenVLA, the subject of upstream's processor: prompts and action tokens, and images.

Sources: openvla action_tokenizer.py, processing_prismatic.py (resize-naive), datasets.py (RLDSBatchTransform; dlimp's
resize, then augmentation), modeling_prismatic.py (predict_action), experiments/robot/openvla_utils.py (centre crop at
inference). Action ids are put into the sequence directly: decoding them to text and tokenising it again would merge
some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PillowImage
from tokenizers import AddedToken, Tokenizer, decoders, models, processors
from torch import Tensor

from rldg_core.errors import UserError, quoted
from rldg_core.files import MAX_TEXT_BYTES, read_bytes, write_json
from rldg_core.image_codec import decode_jpeg
from rldg_core.instructions import check_instruction
from rldg_policy.action_bins import BINS, from_bins, to_bins
from rldg_policy.openvla.config import ACTION_DIM, IMAGE_SIZE
from rldg_policy.training.augment import OPENVLA_AUGMENT, augment, centre_crop, resize_lanczos

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

VOCABULARY = 32000
"""Vocabulary of Llama 2; the embedding has 64 more rows, of which id 32000 is padding."""
BOS, EOS, PAD = 1, 2, VOCABULARY
SPACE = 29871
"""Llama's token for a single space, which precedes the action tokens in training."""
ACTION_BEGIN = VOCABULARY - BINS
"""First of the 256 action ids, 31744 (value 1); the last is 31999 (value -1)."""
IGNORED = -100
"""Label that is ignored in the loss (torch.nn.functional.cross_entropy)."""
UNKNOWN = 0
_CONTROL_TOKENS = (UNKNOWN, BOS, EOS, PAD)
MAX_PROMPT_TOKENS = 512
"""Upstream's prompts have fewer than 60; there are 2048 positions, 256 of them for the image."""
TOKENIZER_FILE = "tokenizer.json"


def action_ids(normalised: ArrayLike) -> Int64:
    """Return the token ids 31744..31999 of normalised actions (...,); values outside [-1, 1] are clipped."""
    return VOCABULARY - 1 - to_bins(normalised)


def action_values(ids: ArrayLike) -> Float32:
    """Return the normalised actions (bin centres) of token ids (...,); other ids are clipped to the nearest action
    token, as upstream."""
    return from_bins(VOCABULARY - 1 - np.asarray(ids, dtype=np.int64))


def is_action(ids: Any) -> Any:
    """Return which ids (array or tensor) are action tokens; padding is not."""
    return (ids >= ACTION_BEGIN) & (ids < VOCABULARY)


def prompt(instruction: str) -> str:
    """Return the prompt. Raises UserError when the instruction is empty, too long or not printable."""
    check_instruction(instruction)
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


class Example(NamedTuple):
    """One training sequence. ids, labels (T,) int64; slots (T,) bool: action slots of parallel decoding."""

    ids: Int64
    labels: Int64
    slots: NDArray[np.bool_]


def inference_ids(prompt_ids: Sequence[int]) -> Int64:
    """Append the single space that precedes the action in training, unless it is there."""
    ids = list(prompt_ids)
    if ids[-1] != SPACE:
        ids.append(SPACE)
    return np.array(ids, dtype=np.int64)


def ar_example(prompt_ids: Sequence[int], normalised: ArrayLike) -> Example:
    """Return <s>, prompt, 29871, 7 action ids, </s>, with loss on the last 8. normalised: (7,).

    A label is at the position of its token, which is predicted by the logits of the position before.
    """
    begin = inference_ids(prompt_ids)
    tokens = np.append(action_ids(normalised), EOS)
    labels = np.append(np.full(len(begin), IGNORED, dtype=np.int64), tokens)
    ids = np.append(begin, tokens)
    return Example(ids, labels, np.zeros(len(ids), dtype=np.bool_))


def parallel_example(prompt_ids: Sequence[int], normalised: ArrayLike) -> Example:
    """Return <s>, prompt, 29871, H * 7 slots, with loss on the slots. normalised: (H, 7).

    A label is at its slot, which is predicted by the logits at the slot. The id of a slot is not used.
    """
    begin = inference_ids(prompt_ids)
    tokens = action_ids(normalised).reshape(-1)
    labels = np.append(np.full(len(begin), IGNORED, dtype=np.int64), tokens)
    ids, slots = with_slots(begin, len(tokens) // ACTION_DIM)
    return Example(ids, labels, slots)


def with_slots(ids: Int64, horizon: int) -> tuple[Int64, NDArray[np.bool_]]:
    """Append the slots of `horizon` actions; return (ids, slot mask)."""
    count = horizon * ACTION_DIM
    slots = np.append(np.zeros(len(ids), dtype=np.bool_), np.ones(count, dtype=np.bool_))
    return np.append(ids, np.full(count, PAD, dtype=np.int64)), slots


class PromptTokenizer:
    """A checkpoint's tokenizer.json. Raises UserError when it is missing, damaged or does not have Llama 2's ids."""

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise UserError(f"{path}: missing: a checkpoint needs its tokenizer")
        try:
            self._tokenizer = Tokenizer.from_buffer(read_bytes(path, MAX_TEXT_BYTES))
        except Exception as error:  # tokenizers raises Exception itself
            raise UserError(f"{path}: not a tokenizer: {' '.join(str(error).split())[:200]}") from error
        for token, expected in (("<s>", BOS), ("</s>", EOS)):
            if self._tokenizer.token_to_id(token) != expected:
                raise UserError(f"{path}: {token} has id {self._tokenizer.token_to_id(token)}, Llama 2's is {expected}")

    def __call__(self, instruction: str) -> list[int]:
        """Return the ids of <s> and the prompt.

        Raises UserError as `prompt`, on text outside the vocabulary, on text that is a control token (such as "</s>"),
        and on more than MAX_PROMPT_TOKENS.
        """
        ids: list[int] = self._tokenizer.encode(prompt(instruction)).ids
        ids = ids if ids[:1] == [BOS] else [BOS, *ids]
        control = next((token for token in ids[1:] if token in _CONTROL_TOKENS or token >= ACTION_BEGIN), None)
        if control is not None:
            name = self._tokenizer.id_to_token(control)
            raise UserError(f"instruction: {quoted(instruction)}: a part of it becomes control token {name!r}")
        if len(ids) > MAX_PROMPT_TOKENS:
            raise UserError(
                f"instruction: {quoted(instruction)}: {len(ids)} tokens with the prompt, OpenVLA takes "
                f"{MAX_PROMPT_TOKENS}: shorten it"
            )
        return ids


def write_byte_tokenizer(folder: Path) -> None:
    """Write a tokenizer with only Llama 2's special and byte tokens, for models with random weights.

    Upstream reads it with transformers, which needs tokenizer_config.json.
    """
    vocabulary = {"<unk>": 0, "<s>": BOS, "</s>": EOS} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(folder / TOKENIZER_FILE))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})


Image = NDArray[np.uint8]

DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
"""ImageNet's statistics, rounded to bfloat16 as in upstream's processor."""
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
_MEAN = np.array([*DINO_MEAN, *SIGLIP_MEAN], dtype=np.float32)[:, None, None]
_STD = np.array([*DINO_STD, *SIGLIP_STD], dtype=np.float32)[:, None, None]


def pixel_values(images: Sequence[Image]) -> Tensor:
    """Convert (H, W, 3) uint8 RGB images to (B, 6, 224, 224) float32 as upstream's image processor.

    Bicubic resize to a square, whatever the aspect ratio; first the channels normalised for DINOv2, then for SigLIP.
    """
    stacked = np.stack([np.concatenate([_to_chw(image)] * 2) for image in images])
    return torch.from_numpy((stacked - _MEAN) / _STD)


def serving_view(jpeg: bytes, crop: bool) -> Image:
    """Decode a JPEG to the (224, 224, 3) input image at inference. Raises ValueError on an invalid image.

    Resized as in training; crop: centre crop of 90 % of the area, for models trained with random crops.
    """
    image = _resize(decode_jpeg(jpeg))
    return centre_crop(image) if crop else image


def training_view(jpeg: bytes, rng: np.random.Generator | None) -> Image:
    """Decode a JPEG to the (224, 224, 3) input image in training: resized, then augmented (rng None: not)."""
    image = _resize(decode_jpeg(jpeg))
    return image if rng is None else augment([image], OPENVLA_AUGMENT, rng)[0]


def _resize(image: Image) -> Image:
    return image if image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE) else resize_lanczos(image, IMAGE_SIZE)


def _to_chw(image: Image) -> NDArray[np.float32]:
    if image.shape[:2] != (IMAGE_SIZE, IMAGE_SIZE):
        square = PillowImage.fromarray(image).resize((IMAGE_SIZE, IMAGE_SIZE), PillowImage.Resampling.BICUBIC)
        image = np.asarray(square)
    return image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
