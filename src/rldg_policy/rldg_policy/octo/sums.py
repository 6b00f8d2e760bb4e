"""SHA-256 of the weights' files, in the format of sha256sum: our folders carry one, upstream's need not."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rldg_core.errors import UserError
from rldg_core.files import open_regular, read_text

SUMS_FILE = "weights.sha256"


def write_sums(folder: Path) -> None:
    """Write folder/weights.sha256 over every file below the folder."""
    (folder / SUMS_FILE).write_text("".join(f"{value}  {name}\n" for name, value in _sums(folder).items()))


def check_sums(folder: Path) -> None:
    """Raise UserError that names the first file which is not the one that was written. No weights.sha256: no check."""
    path = folder / SUMS_FILE
    if not path.is_file():
        return
    lines = [line.partition("  ") for line in read_text(path).splitlines()]
    written = {name: value for value, _, name in lines}
    found = _sums(folder)
    for name in sorted({*written, *found}):
        if name not in found:
            raise UserError(f"{folder / name}: missing, {SUMS_FILE} lists it")
        if written.get(name) != found[name]:
            raise UserError(f"{folder / name}: damaged, or of another checkpoint: its sha256 is not in {SUMS_FILE}")


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_FILE)
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
