"""Tokenizer of instructions, as named by a checkpoint.

It is read from <checkpoint>/<name>/ or from the Hugging Face cache; nothing is downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from huggingface_hub import try_to_load_from_cache
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rldg_core.configuration import validated
from rldg_core.errors import UserError, quoted
from rldg_core.files import MAX_TEXT_BYTES, read_bytes, read_json
from rldg_core.instructions import check_instruction
from rldg_policy.octo.config import T5_BASE, T5Config, TextConfig

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = (TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json")
T5_FILE = "config.json"
PADDING, UNKNOWN = "<pad>", "<unk>"
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class InstructionTokenizer:
    """Tokenizes instructions. files: name -> content of the tokenizer's files in a checkpoint.

    Raises UserError when tokenizer.json is malformed or has no token `<pad>`.
    """

    def __init__(self, files: Mapping[str, bytes], config: TextConfig, where: object) -> None:
        self.files = dict(files)
        self.config = config
        length = config.tokenizer_kwargs.max_length
        try:
            self._tokenizer = Tokenizer.from_str(files[TOKENIZER_FILE].decode())
        except Exception as error:  # tokenizers raises Exception itself
            raise UserError(
                f"{where}: {TOKENIZER_FILE}: not a tokenizer: {' '.join(str(error).split())[:200]}"
            ) from error
        padding = self._tokenizer.token_to_id(PADDING)
        if padding is None:
            raise UserError(f"{where}: {TOKENIZER_FILE}: no token {PADDING}, which T5 needs for padding")
        self._tokenizer.no_truncation()
        self._unknown = self._tokenizer.token_to_id(UNKNOWN)
        self._tokenizer.enable_padding(length=length, pad_id=padding, pad_token=PADDING)

    @property
    def vocabulary(self) -> int:
        """Largest id plus one."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def __call__(self, instructions: Sequence[str]) -> dict[str, NDArray[np.int32]]:
        """Tokenize B instructions to {input_ids, attention_mask}, each (B, L) int32.

        Raises UserError on an instruction that upstream would truncate to L tokens, and on words outside the
        vocabulary.
        """
        for instruction in instructions:
            check_instruction(instruction)
        found = self._tokenizer.encode_batch(list(instructions))
        length = self.config.tokenizer_kwargs.max_length
        for instruction, one in zip(instructions, found, strict=True):
            if len(one.ids) > length:
                count = f"{len(one.ids)} tokens, this Octo takes {length}"
                raise UserError(f"instruction: {quoted(instruction)}: {count}: shorten it")
            if self._unknown is not None and self._unknown in one.ids:
                raise UserError(f"instruction: {quoted(instruction)}: has words that are not in this Octo's vocabulary")
        return {
            "input_ids": np.array([one.ids for one in found], dtype=np.int32),
            "attention_mask": np.array([one.attention_mask for one in found], dtype=np.int32),
        }


def find_tokenizer(folder: Path, config: TextConfig) -> InstructionTokenizer:
    """Return the tokenizer of a checkpoint. Raises UserError that says where to put it when it is not found."""
    name = config.tokenizer_name
    files = {file: read_bytes(path, MAX_TEXT_BYTES) for file in TOKENIZER_FILES if (path := _find(folder, name, file))}
    if TOKENIZER_FILE not in files:
        raise UserError(f"{folder / name / TOKENIZER_FILE}: missing: put the tokenizer of {name} there")
    return InstructionTokenizer(files, config, folder / name)


def find_t5(folder: Path, name: str) -> T5Config:
    """Return the sizes of a checkpoint's language encoder (T5-base is built in).

    Raises UserError as `find_tokenizer`.
    """
    path = _find(folder, name, T5_FILE)
    if path is not None:
        return validated(T5Config, read_json(path), str(path))
    if name.removeprefix("google-t5/") == "t5-base":
        return T5_BASE
    raise UserError(f"{folder / name / T5_FILE}: missing: put the configuration of {name} there")


def t5_json(config: T5Config) -> bytes:
    """Return the content of the file that `find_t5` reads."""
    return (json.dumps({"model_type": "t5", **config.model_dump(mode="json")}, indent=2) + "\n").encode()


def _find(folder: Path, name: str, file: str) -> Path | None:
    if not _NAME.fullmatch(name):
        raise UserError(f"{folder / 'config.json'}: {name!r} is not the name of a model on the Hugging Face hub")
    if (local := folder / name / file).is_file():
        return local
    repositories = (name, f"google-t5/{name}") if "/" not in name else (name,)
    cached = (try_to_load_from_cache(repository, file) for repository in repositories)
    return next((Path(path) for path in cached if isinstance(path, str)), None)
