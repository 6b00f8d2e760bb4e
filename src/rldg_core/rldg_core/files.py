"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""


def sha256_hex(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")


def _hidden_os_error(error: Exception) -> str | None:
    """What the system said, from the text of an exception of Rust (safetensors) or C++ (tensorstore); None: nothing."""
    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):
        return os.strerror(int(number[1]))
    full = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    return next((reason for reason in full if reason in text), None)


def replace_folder(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of the folder `path`, which exists, so that nobody ever finds none there."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Python has no call for it; glibc 2.28 has.
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0:
        shutil.rmtree(new)
        return
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # A file system that cannot exchange (NFS): two steps, with nothing there in between.
    old = _aside(path)
    os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old)


@contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`.

    Works for a file or for a folder (the caller creates either one under the yielded name). On any
    error the temporary is removed and what stood under `path` before stays. A full disk becomes a
    UserError that names the file, also where a library of another language reports it in its own type.
    """
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        for item in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            fsync(item)
        if path.is_dir():
            replace_folder(aside, path)
        else:
            os.replace(aside, path)
        fsync(path.parent)
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from error
    except UserError:
        raise
    except Exception as error:
        reason = _hidden_os_error(error)
        if reason is None:
            raise
        raise UserError(f"{path}: cannot write: {reason}") from error
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        elif aside.exists():
            aside.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with writing_aside(path) as aside:
        aside.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` atomically. NaN is refused: JSON has none."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; a missing or malformed file is a UserError that names it."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
