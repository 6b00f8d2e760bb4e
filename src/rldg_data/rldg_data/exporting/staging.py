"""Write a dataset beside its final path: kept when the export is killed, published by one rename.

`.‹version›.‹hash›.partial/` beside `‹version›/` belongs to one plan, `.‹version›.lock` to one running export.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import fsync


@contextmanager
def staging(path: Path, digest: str, marker: str, overwrite: bool) -> Iterator[Path]:
    """Yield the folder to write to, locked; the caller ends with `publish`.

    Files of a killed export with the same digest are kept; leftovers of others are removed. The folder is kept on
    exit, unless it is empty. marker: file that identifies a dataset of this format.
    Raises UserError when `path` exists and may not be replaced, when another export writes it, or on a full or
    read-only disk.
    """
    _check_target(path, marker, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            folder = _aside(path, f"{digest[:8]}.partial")
            _clean(path, keep=folder)
            _check_target(path, marker, overwrite)
            folder.mkdir(exist_ok=True)
            try:
                yield folder
            finally:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    except OSError as error:
        raise UserError(f"{path}: cannot write: {error.strerror or error}") from error


def publish(folder: Path, path: Path) -> None:
    """Replace `path` by a finished folder; the previous content is removed."""
    for item in [*folder.rglob("*"), folder]:
        fsync(item)
    old = _aside(path, "old")
    if path.exists():
        # Two renames; if killed in between, `_clean` restores the old folder.
        path.rename(old)
    folder.rename(path)
    fsync(path.parent)
    if old.exists():
        shutil.rmtree(old)


def _check_target(path: Path, marker: str, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise UserError(f"{path}: already exists; use --overwrite or choose another version")
    if path.exists() and not (path / marker).is_file():
        raise UserError(f"{path}: exists and is not a dataset, so it is not replaced")


def _aside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{suffix}")


def _clean(path: Path, keep: Path) -> None:
    old = _aside(path, "old")
    if old.is_dir() and not path.exists():
        old.rename(path)
    for left in [old, *path.parent.glob(f".{path.name}.*.partial")]:
        if left != keep and left.is_dir():
            shutil.rmtree(left)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The kernel releases the lock when its holder ends, even if killed."""
    file = _aside(path, "lock")
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(f"{path}: another export is writing it") from error
        # The previous holder may have unlinked this file: only a linked one counts.
        if os.fstat(descriptor).st_nlink == 1:
            break
        os.close(descriptor)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
