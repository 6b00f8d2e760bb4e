"""What tests of OpenVLA's files share."""

from __future__ import annotations

from pathlib import Path


def copy_without(source: Path, target: Path, *names: str) -> Path:
    """A checkpoint folder without some of its files; the others are links, so that none is copied."""
    target.mkdir()
    for path in source.iterdir():
        if path.name not in names:
            (target / path.name).symlink_to(path)
    return target


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Put `data` where a link stood."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(data)
