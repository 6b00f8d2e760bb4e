"""Image headers: a size that the file cannot hold is never allocated."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_core.image_header import MAX_SIDE_PX, read_header

JPEG = encode_jpeg(np.full((48, 64, 3), 127, dtype=np.uint8))
PNG = cv2.imencode(".png", np.full((48, 64, 3), 127, dtype=np.uint8))[1].tobytes()


def claiming(data: bytes, height: int, width: int) -> bytes:
    """Return the same file with another size in its header."""
    if data.startswith(b"\x89PNG"):
        head = data[12:16] + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    at = next(data.index(bytes([0xFF, n])) for n in (0xC0, 0xC2) if bytes([0xFF, n]) in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("data", [JPEG, PNG])
def test_size_is_read_from_the_header(data: bytes) -> None:
    header = read_header(data)
    assert (header.height, header.width, header.bits, header.channels) == (48, 64, 8, 3)
    assert decode_jpeg(data).shape == (48, 64, 3)


@pytest.mark.parametrize("data", [JPEG, PNG])
@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [
        (65500, 65500, "65500x65500 px, expected at most 8192 px per side"),
        (MAX_SIDE_PX, MAX_SIDE_PX, "8192x8192 px, expected at most"),
        (4096, 8192, "header claims 8192x4096 px, which [0-9]+ bytes cannot hold"),
        (0, 64, "64x0 px"),
        (48, 0, "0x48 px"),
    ],
)
def test_oversized_headers_are_refused_before_decoding(data: bytes, height: int, width: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_jpeg(claiming(data, height, width))


@pytest.mark.parametrize("suffix", [".bmp", ".tiff", ".webp", ".ppm"])
def test_other_formats_are_refused(suffix: str) -> None:
    data = cv2.imencode(suffix, np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        decode_jpeg(data)


def test_images_of_sixteen_bits_are_refused() -> None:
    data = cv2.imencode(".png", np.zeros((8, 8), np.uint16))[1].tobytes()
    with pytest.raises(ValueError, match="a PNG of 16 bits, expected 8"):
        decode_jpeg(data)


def test_uniform_images_of_every_encoding_are_accepted() -> None:
    """The smallest files that encoders write for a large image must pass the check of oversized headers."""
    flat = np.zeros((1024, 2048, 3), np.uint8)
    for flags in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_OPTIMIZE, 1], [cv2.IMWRITE_JPEG_QUALITY, 1]):
        assert decode_jpeg(cv2.imencode(".jpg", flat, flags)[1].tobytes()).shape == flat.shape
    assert decode_jpeg(cv2.imencode(".png", flat, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()).shape == flat.shape


def test_exif_rotation_is_ignored_as_in_unchanged_bytes() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    rotated = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + JPEG[2:]
    assert decode_jpeg(rotated).shape == (48, 64, 3)


@settings(max_examples=300, deadline=None)
@given(data=st.sampled_from([JPEG, PNG]), at=st.integers(0, 700), byte=st.integers(0, 255), length=st.integers(0, 2000))
def test_any_bytes_are_an_image_or_a_value_error(data: bytes, at: int, byte: int, length: int) -> None:
    changed = bytearray(data[:length])
    if at < len(changed):
        changed[at] = byte
    try:
        image = decode_jpeg(bytes(changed))
    except ValueError:
        return
    assert image.ndim == 3 and image.nbytes <= 3 * 512 * 8 * len(data)
