"""Bounded reading of user files; atomic writing of our own: a file gets its final name only when it is complete.

Every file that a user names, or that lies in a folder named by a user, is opened or checked here: it must be a regular
file of bounded size. A test searches the sources for other ways to open one.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError, quoted

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
"""Constants of Linux's renameat2."""


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
    """Return the system error in the text of an exception from Rust (safetensors) or C++ (tensorstore), or None."""
    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):
        return os.strerror(int(number[1]))
    full = (os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    return next((reason for reason in full if reason in text), None)


def replace_folder(new: Path, path: Path) -> None:
    """Atomically replace the existing folder `path` by the folder `new`."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Python does not wrap renameat2; glibc 2.28 does.
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0:
        shutil.rmtree(new)
        return
    if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # A file system without exchange (NFS) needs two renames; between them `path` does not exist.
    old = _aside(path)
    os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old)


@contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it to `path`.

    Works for a file or for a folder (the caller creates either one under the yielded name). On any
    error the temporary is removed and `path` is left unchanged. A full disk becomes a
    UserError that names the file, also where a non-Python library reports it as its own type.
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


MAX_TEXT_BYTES = 16 * 2**20
"""Maximum size of a text parsed as a whole. Largest known: metadata.yaml of a bag in 10,000 files, 3 MB."""

MAX_DATA_BYTES = 8 * 2**30
"""Maximum size of a file read into memory as a whole."""

MAX_DEPTH = 64
"""Maximum nesting of lists and mappings. Deepest known: 12, in a configuration of Octo."""

MAX_DIGITS = 100
"""Maximum digits of a number. Longest known: 39, in the state of a random generator."""

_MAX_VALUES = 4_000_000
"""Maximum values in a JSON text: about 0.5 GB of objects."""

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def check_regular(path: Path) -> int:
    """Return the size [bytes] of a regular file. Call it before a library opens the path itself.

    A FIFO or a device would block the reader or never end. Raises UserError naming the path.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error
    _check_mode(path, found.st_mode)
    return found.st_size


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; never blocks on a FIFO. Raises UserError naming the path."""
    check_regular(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # Check the opened descriptor, since the path may have changed since the first check.
            _check_mode(path, os.fstat(descriptor).st_mode)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


def check_tree(path: Path) -> None:
    """Refuse a folder that contains anything but folders and regular files, since a library will open all of it.

    A single file is accepted as well. Raises UserError naming the first other entry.
    """
    for item in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not item.is_dir():
            check_regular(item)


def read_bytes(path: Path, max_bytes: int = MAX_DATA_BYTES) -> bytes:
    """Read a regular file of at most `max_bytes`. Raises UserError naming the path."""
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = file.read(min(size, max_bytes) + 1) if size <= max_bytes else b""
        except (OSError, MemoryError) as error:
            raise UserError(
                f"{path}: cannot read: {getattr(error, 'strerror', None) or 'not enough memory'}"
            ) from error
    if max(size, len(data)) > max_bytes:
        raise UserError(f"{path}: {max(size, len(data)):,} bytes, expected at most {max_bytes:,}")
    return data


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a regular file of UTF-8 text. Raises UserError naming the path."""
    try:
        return read_bytes(path, max_bytes).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot read: not UTF-8 text (byte {error.start})") from error


def read_json(path: Path) -> Any:
    """Read JSON; a missing, malformed or oversized file raises a UserError that names it."""
    return parse_json(read_bytes(path, MAX_TEXT_BYTES), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON. Raises UserError `where: not valid JSON: reason`, also when a limit is exceeded.

    Limits: MAX_TEXT_BYTES, MAX_DEPTH, MAX_DIGITS. Duplicate keys are refused, since one value would be lost.
    """
    try:
        if len(text) > MAX_TEXT_BYTES:
            raise ValueError(f"{len(text):,} bytes, expected at most {MAX_TEXT_BYTES:,}")
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text))
        opened = text.count("[") + text.count("{")
        if opened + text.count(",") > _MAX_VALUES:
            raise ValueError(f"more than {_MAX_VALUES:,} values")
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_finite)
        if opened > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
            raise ValueError(f"more than {MAX_DEPTH} levels of lists and objects")
    except RecursionError as error:
        raise UserError(f"{where}: not valid JSON: more than {MAX_DEPTH} levels of lists and objects") from error
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON: {error}") from error
    return value


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: cannot read: {os.strerror(errno.EISDIR)}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: {_KINDS.get(stat.S_IFMT(mode), 'no file')}, expected a regular file")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {quoted(twice)} comes twice")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits, expected at most {MAX_DIGITS}")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{quoted(text)} exceeds the range of a float")
    return value


def _deeper_than(value: Any, limit: int) -> bool:
    """Iterative, since the value may be nested deeper than Python can recurse."""
    level = [value]
    for _ in range(limit):
        nested = (x.values() if isinstance(x, dict) else x for x in level if isinstance(x, dict | list))
        level = [x for items in nested for x in items]
    return any(isinstance(x, dict | list) for x in level)
