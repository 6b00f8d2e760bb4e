"""Files in npz format: no pickles, and no array larger than the file's content."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rldg_core.arrays import read_npz
from rldg_core.errors import UserError


def test_arrays_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(3), y=np.zeros((2, 2), np.float32))
    read = read_npz(tmp_path / "a.npz")
    assert read["x"].tolist() == [0, 1, 2]
    assert read["y"].shape == (2, 2)


def npz_of(path: Path, header: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header)
    return path


def test_pickles_and_oversized_arrays_are_refused(tmp_path: Path) -> None:
    stored = io.BytesIO()
    np.save(stored, np.zeros(4, np.uint8))
    claim = stored.getvalue().replace(b"(4,), }" + b" " * 14, b"(9999999999999,), }  ")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1 << 20, np.uint8))
    (tmp_path / "text.npz").write_text("no zip")
    assert b"9999" in claim
    for path, reason in (
        (npz_of(tmp_path / "claim.npz", claim), "claims more than the memory"),
        (tmp_path / "pickle.npz", "Object arrays cannot be loaded"),
        (tmp_path / "text.npz", "not a zip file"),
    ):
        with pytest.raises(UserError, match=f"not an npz file of plain arrays: .*{reason}"):
            read_npz(path)
    with pytest.raises(UserError, match=r"1,048,704 bytes unpacked, expected at most 1,000,000"):
        read_npz(tmp_path / "bomb.npz", 1_000_000)
