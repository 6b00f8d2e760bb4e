"""Helpers for tests of OpenVLA's files."""

from __future__ import annotations

from pathlib import Path


def copy_without(source: Path, target: Path, *names: str) -> Path:
    """Copy a checkpoint folder without some of its files; the others are links, to save time."""
    target.mkdir()
    for path in source.iterdir():
        if path.name not in names:
            (target / path.name).symlink_to(path)
    return target


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a link by a file with `data`."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(data)
