"""Actions as tokens, prompts, and the sequences that are trained on and decoded from.

Sources: openvla action_tokenizer.py, datasets.py (RLDSBatchTransform), modeling_prismatic.py (predict_action). Action
ids are put into the sequence as they are: decoding them to text and tokenising that again merges some of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, processors

from rldg_core.errors import UserError, quoted
from rldg_core.files import MAX_TEXT_BYTES, read_bytes, write_json
from rldg_core.instructions import check_instruction
from rldg_policy.action_bins import BINS, from_bins, to_bins
from rldg_policy.openvla.config import ACTION_DIM

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

VOCABULARY = 32000
"""Of Llama 2; the embedding has 64 rows more, of which id 32000 is padding."""
BOS, EOS, PAD = 1, 2, VOCABULARY
SPACE = 29871
"""Llama's token of a lone space: it stood before the action tokens in training."""
ACTION_BEGIN = VOCABULARY - BINS
"""First of the 256 action ids, 31744 (the value 1); the last is 31999 (-1)."""
IGNORED = -100
"""Label without loss (torch.nn.functional.cross_entropy)."""
UNKNOWN = 0
_NO_WORDS = (UNKNOWN, BOS, EOS, PAD)
MAX_PROMPT_TOKENS = 512
"""Upstream's prompts have under 60; positions end at 2048, of which an image takes 256."""
TOKENIZER_FILE = "tokenizer.json"


def action_ids(normalised: ArrayLike) -> Int64:
    """Return the token ids 31744..31999 of normalised actions (...,); values outside [-1, 1] are clipped."""
    return VOCABULARY - 1 - to_bins(normalised)


def action_values(ids: ArrayLike) -> Float32:
    """Return the normalised actions (bin centres) of token ids (...,); other ids are clipped to the nearest action
    token, as upstream."""
    return from_bins(VOCABULARY - 1 - np.asarray(ids, dtype=np.int64))


def is_action(ids: Any) -> Any:
    """Which ids (array or tensor) are action tokens, for token accuracy; padding is none."""
    return (ids >= ACTION_BEGIN) & (ids < VOCABULARY)


def prompt(instruction: str) -> str:
    """What the model is asked. Raises UserError when the instruction is empty, too long or not printable."""
    check_instruction(instruction)
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


class Example(NamedTuple):
    """One training sequence. ids, labels (T,) int64; slots (T,) bool: action slots of parallel decoding."""

    ids: Int64
    labels: Int64
    slots: NDArray[np.bool_]


def inference_ids(prompt_ids: Sequence[int]) -> Int64:
    """<s>, prompt and the lone space that training puts before the action: appended where it is missing."""
    ids = list(prompt_ids)
    if ids[-1] != SPACE:
        ids.append(SPACE)
    return np.array(ids, dtype=np.int64)


def ar_example(prompt_ids: Sequence[int], normalised: ArrayLike) -> Example:
    """<s>, prompt, 29871, 7 action ids, </s>; loss on the last 8. normalised: (7,).

    Labels stand at their own token: the logits before it are the ones that predict it.
    """
    begin = inference_ids(prompt_ids)
    answer = np.append(action_ids(normalised), EOS)
    labels = np.append(np.full(len(begin), IGNORED, dtype=np.int64), answer)
    ids = np.append(begin, answer)
    return Example(ids, labels, np.zeros(len(ids), dtype=np.bool_))


def parallel_example(prompt_ids: Sequence[int], normalised: ArrayLike) -> Example:
    """<s>, prompt, 29871, H * 7 slots; loss on the slots. normalised: (H, 7).

    Labels stand at their slot, whose own logits predict it. The id below a slot says nothing: its embedding is empty.
    """
    begin = inference_ids(prompt_ids)
    answer = action_ids(normalised).reshape(-1)
    labels = np.append(np.full(len(begin), IGNORED, dtype=np.int64), answer)
    ids, slots = with_slots(begin, len(answer) // ACTION_DIM)
    return Example(ids, labels, slots)


def with_slots(ids: Int64, horizon: int) -> tuple[Int64, NDArray[np.bool_]]:
    """Append the slots of `horizon` actions: (ids, which of them are slots)."""
    count = horizon * ACTION_DIM
    slots = np.append(np.zeros(len(ids), dtype=np.bool_), np.ones(count, dtype=np.bool_))
    return np.append(ids, np.full(count, PAD, dtype=np.int64)), slots


class PromptTokenizer:
    """A checkpoint's tokenizer.json. Raises UserError when it is missing, damaged or not Llama 2's in its ids."""

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise UserError(f"{path}: missing: the checkpoint needs its tokenizer")
        try:
            self._tokenizer = Tokenizer.from_buffer(read_bytes(path, MAX_TEXT_BYTES))
        except Exception as error:  # tokenizers raises Exception itself
            raise UserError(f"{path}: not a tokenizer: {' '.join(str(error).split())[:200]}") from error
        for token, expected in (("<s>", BOS), ("</s>", EOS)):
            if self._tokenizer.token_to_id(token) != expected:
                raise UserError(f"{path}: {token} has id {self._tokenizer.token_to_id(token)}, Llama 2's is {expected}")

    def __call__(self, instruction: str) -> list[int]:
        """Instruction -> <s> and the prompt's ids.

        Raises UserError as `prompt`, on what the vocabulary does not hold, on text that stands for a control token
        (such as "</s>"), and on more than MAX_PROMPT_TOKENS.
        """
        ids: list[int] = self._tokenizer.encode(prompt(instruction)).ids
        ids = ids if ids[:1] == [BOS] else [BOS, *ids]
        control = next((token for token in ids[1:] if token in _NO_WORDS or token >= ACTION_BEGIN), None)
        if control is not None:
            name = self._tokenizer.id_to_token(control)
            raise UserError(
                f"instruction: {quoted(instruction)}: a part of it becomes token {name!r}, which is no word"
            )
        if len(ids) > MAX_PROMPT_TOKENS:
            raise UserError(
                f"instruction: {quoted(instruction)}: {len(ids)} tokens with the prompt, OpenVLA takes "
                f"{MAX_PROMPT_TOKENS}: say it shorter"
            )
        return ids


def write_byte_tokenizer(folder: Path) -> None:
    """A tokenizer with Llama 2's special and byte tokens alone, for models with random weights.

    tokenizer_config.json beside it is for transformers, with which upstream reads it.
    """
    vocabulary = {"<unk>": 0, "<s>": BOS, "</s>": EOS} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.save(str(folder / TOKENIZER_FILE))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
