"""Atomic files, derived seeds, image codec."""

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldg_core import files
from rldg_core.errors import UserError
from rldg_core.files import read_json, write_bytes, write_json, writing_aside
from rldg_core.image_codec import crop, decode_jpeg, encode_jpeg, resize
from rldg_core.seeding import derive_seed


def test_failed_write_leaves_only_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"v": 1})

    def fail_in_the_middle() -> None:
        with writing_aside(path) as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_the_middle()
    assert read_json(path) == {"v": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_full_disk_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_bytes(tmp_path / "b.bin", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("inside", ["file/a.json", "file/folder/a.json"])
def test_file_in_place_of_a_folder_is_a_user_error(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=f"{inside}: cannot write: "):
        write_json(tmp_path / inside, {})
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "OUT_OF_RANGE: Failed to write 41 bytes to file 14: No space left on device [os_error_code='28']",
    ],
)
def test_full_disk_is_recognised_in_errors_of_rust_and_cpp_libraries(tmp_path: Path, text: str) -> None:
    """Use the errors of safetensors (Rust) and tensorstore (C++)."""

    def full() -> None:
        with writing_aside(tmp_path / "b.bin") as aside:
            aside.write_bytes(b"x")
            raise ValueError(text)

    with pytest.raises(UserError, match=r"b\.bin: cannot write: No space left on device$"):
        full()
    assert os.listdir(tmp_path) == []


def test_folders_are_replaced_completely(tmp_path: Path) -> None:
    target = tmp_path / "d"
    for text in ("one", "two"):
        with writing_aside(target) as aside:
            aside.mkdir()
            (aside / f"{text}.txt").write_text(text)
    assert [p.name for p in target.iterdir()] == ["two.txt"]
    assert os.listdir(tmp_path) == ["d"]


@pytest.mark.parametrize("text", [None, "{", ""])
def test_bad_json_is_refused_with_the_file(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"c\.json"):
        read_json(path)


@given(st.integers(0, 2**63 - 1), st.lists(st.one_of(st.text(max_size=5), st.integers()), max_size=3))
def test_seeds_are_repeatable_and_fit_ros(seed: int, labels: list[str | int]) -> None:
    value = derive_seed(seed, *labels)
    assert value == derive_seed(seed, *labels)
    assert 0 <= value < 2**63
    assert value != derive_seed(seed, *labels, "other")


def test_jpeg_round_trip_keeps_rgb() -> None:
    image = np.zeros((64, 48, 3), np.uint8)
    image[..., 0] = 200
    image[:32, :, 2] = 90
    back = decode_jpeg(encode_jpeg(image, 95))
    assert back.shape == image.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - image).mean() < 4


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 truncated"])
def test_bytes_without_an_image_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"image|JPEG"):
        decode_jpeg(data)


def test_image_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(np.zeros((4, 4, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exceeds the"):
        crop(np.zeros((10, 10, 3), np.uint8), 5, 0, 6, 5)
    assert crop(np.zeros((10, 12, 3), np.uint8), 2, 1, 8, 9).shape == (9, 8, 3)
    assert resize(np.zeros((10, 10, 3), np.uint8), 20).shape == (20, 20, 3)


def test_replaced_folder_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the folder at each point where the process could be killed: after every rename and removal."""
    folder = tmp_path / "state"
    write_folder(folder, 0)

    def look(act: Callable[..., None], *arguments: Any) -> None:
        assert folder.is_dir()
        act(*arguments)
        assert folder.is_dir()

    monkeypatch.setattr(files.os, "rename", partial(look, os.rename))
    monkeypatch.setattr(files.shutil, "rmtree", partial(look, shutil.rmtree))
    write_folder(folder, 1)
    assert (folder / "value").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["state"]


def write_folder(folder: Path, value: int) -> None:
    with writing_aside(folder) as aside:
        aside.mkdir()
        (aside / "value").write_text(str(value))


def test_folder_is_replaced_on_a_file_system_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 7)  # a flag unknown to the kernel: EINVAL
    for value in range(2):
        write_folder(tmp_path / "state", value)
    assert (tmp_path / "state" / "value").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["state"]
