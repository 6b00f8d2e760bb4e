"""Data that unpack to far more than their size on disk are refused by their headers, in one line, before unpacking."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import lz4.frame
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from rldg_core.errors import UserError
from rldg_data.bags.mcap_writer import MAGIC
from rldg_data.bags.reading import read_episode
from rldg_data.bags.recording import write_episode
from rldg_data.bags.repair import is_sound, repair_bag
from rldg_data.bags.unpacking import MAX_UNPACKED_BYTES, check_compressed, unpack_message
from rldg_data.external.importing import import_bag
from rldg_data.lerobot import tables
from rldg_data.lerobot.tables import DataFile
from rldg_data.lerobot.video import FrameReader
from rldg_data.lint import lint
from rldg_data.testing.external import mapping
from rldg_data.testing.steps import make_episode, make_task

MB = 2**20
SIZE = MAX_UNPACKED_BYTES + MB


def zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // MB):
        yield bytes(MB)


def zstd(size: int, *, declared: bool) -> bytes:
    """Compress zeros. declared: whether the frame header states the size."""
    packer = zstandard.ZstdCompressor().compressobj(size=size if declared else -1)
    return b"".join(map(packer.compress, zeros(size))) + packer.flush()


def lz4_frame(size: int) -> bytes:
    with lz4.frame.LZ4FrameCompressor() as packer:
        return packer.begin() + b"".join(map(packer.compress, zeros(size))) + packer.flush()


def text(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


def mcap(data: bytes, compression: bytes, declared: int) -> bytes:
    """Return a file with one chunk that declares `declared` bytes unpacked."""
    head = text(b"ros2") + text(b"made up")
    chunk = struct.pack("<QQQI", 1, 2, declared, 0) + text(compression) + struct.pack("<Q", len(data)) + data
    return MAGIC + struct.pack("<BQ", 1, len(head)) + head + struct.pack("<BQ", 6, len(chunk)) + chunk


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "zstd with its size": (
        lambda: mcap(zstd(SIZE, declared=True), b"zstd", SIZE),
        "unpacks to 269,484,032 bytes, expected",
    ),
    "zstd with a wrong size": (
        lambda: mcap(zstd(SIZE, declared=True), b"zstd", 1000),
        "more than the 1,000 bytes declared",
    ),
    "lz4 with a wrong size": (
        lambda: mcap(lz4_frame(SIZE), b"lz4", 1000),
        "more than the 1,000 bytes declared in its header",
    ),
    "an impossible size": (lambda: mcap(b"", b"", 2**63), "unpacks to 9,223,372,036,854,775,808 bytes"),
}


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_episode(tmp_path / "bags", make_episode(4), make_task(), wall_time="now")


@pytest.mark.parametrize("name", BOMBS)
def test_oversized_chunk_is_refused_by_every_reader(bag: Path, tmp_path: Path, name: str) -> None:
    make, part = BOMBS[name]
    (file,) = bag.glob("*.mcap")
    file.write_bytes(make())
    assert file.stat().st_size < 2 * MB
    for read in (read_episode, repair_bag, lambda path: import_bag(mapping(), path, tmp_path / "out")):
        with pytest.raises(UserError, match=part) as caught:
            read(bag)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not is_sound(bag)
    (found,) = [finding for finding in lint(bag) if finding.check == "damaged"]
    assert part in found.message


@pytest.mark.parametrize(
    "data",
    [lambda: zstd(4 * MB, declared=False), lambda: zstandard.compress(bytes(1000)) + zstd(4 * MB, declared=True)],
    ids=["no size", "second frame"],
)
def test_zstd_frames_beyond_the_declared_size_are_refused(bag: Path, tmp_path: Path, data: Callable[[], bytes]) -> None:
    (file,) = bag.glob("*.mcap")
    file.write_bytes(mcap(data(), b"zstd", 1000))
    with pytest.raises(UserError, match="more than the 1,000 bytes declared in its header"):
        import_bag(mapping(), bag, tmp_path / "out")


def test_oversized_compressed_file_and_message_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "bag.mcap.zstd"
    file.write_bytes(zstd(65 * MB, declared=False))
    with pytest.raises(UserError, match="unpacks to more than 67,108,864 bytes"):
        check_compressed(file)
    file.write_bytes(zstd(60 * MB, declared=False))
    check_compressed(file)
    assert unpack_message(zstandard.compress(b"message")) == b"message"
    with pytest.raises(ValueError, match="a message unpacks to more than"):
        unpack_message(zstd(SIZE, declared=False))


def test_oversized_row_group_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.parquet"
    rows = tables.MAX_GROUP_ROWS + 1
    pq.write_table(pa.table({"action": pa.array(np.zeros(rows, bool))}), file, row_group_size=rows, compression="zstd")
    assert file.stat().st_size < MB
    with pytest.raises(UserError, match="row group 0 unpacks to 4,194,305 rows, expected at most") as caught:
        DataFile(file, 0).rows(0, 3, ["action"])
    assert str(caught.value).startswith(f"{file}: ")


def test_page_sizes_are_checked_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_GROUP_BYTES", 2 * MB)
    file = tmp_path / "data.parquet"
    table = pa.table({"action": pa.array(np.zeros(MB // 2)), "index": pa.array(np.arange(MB // 2))})
    pq.write_table(table, file, compression="zstd", use_dictionary=False)
    with pytest.raises(UserError, match=r"row group 0 unpacks to 8,\d+,\d+ bytes, expected at most 2,097,152"):
        DataFile(file, 0).rows(0, 3, ["action"])
    monkeypatch.setattr(tables, "MAX_GROUP_BYTES", 9 * MB)
    assert len(DataFile(file, 0).rows(0, 3, ["action"])) == 3


def test_video_of_oversized_frames_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.mp4"
    source = ["-f", "lavfi", "-i", "color=black:s=8192x4112:d=0.04:r=25", "-c:v", "libx264", "-preset", "ultrafast"]
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-loglevel", "error", *source, str(file)], check=True, timeout=60)
    assert file.stat().st_size < MB
    with FrameReader(file) as reader, pytest.raises(UserError, match=r"frame 0: ") as caught:
        next(reader.frames(0, 1))
    assert "max" in str(caught.value) and "\n" not in str(caught.value)
