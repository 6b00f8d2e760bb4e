"""Arrays in npz files, read within limits."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import MAX_DATA_BYTES, open_regular


def read_npz(path: Path, max_bytes: int = MAX_DATA_BYTES) -> dict[str, NDArray[Any]]:
    """Read all arrays of an npz file without pickled objects. max_bytes: of all of them together, unpacked.

    Raises UserError naming the file when it holds anything else, or claims more than it holds.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > max_bytes:
                raise ValueError(f"{size:,} bytes unpacked, expected at most {max_bytes:,}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:  # bounded: by the check above
                return {name: arrays[name] for name in arrays.files}
        except MemoryError as error:
            raise UserError(f"{path}: not an npz file of plain arrays: an array claims more than the memory") from error
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise UserError(f"{path}: not an npz file of plain arrays: {error}") from error
