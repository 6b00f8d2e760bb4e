"""JPEGs are checked by their structure; anything but 8-bit RGB JPEG is refused, or decoded where a size is given."""

from __future__ import annotations

import contextlib
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_data.episodes.images import conform
from rldg_data.episodes.jpeg import check
from rldg_data.plan import ImageFormat
from rldg_data.testing.steps import jpeg

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)


def saved(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def png16() -> bytes:
    done, data = cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)
    assert done
    return data.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        saved(PIXELS),
        saved(PIXELS, progressive=True),
        saved(PIXELS, quality=100, subsampling=0, optimize=True),
        saved(PIXELS, comment=b"\xff\xd9 in a comment"),
        saved(PIXELS, restart_marker_rows=1),
        saved(PIXELS) + bytes(16),
        cv2.imencode(".jpg", PIXELS)[1].tobytes(),
        cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
    ],
)
def test_every_kind_of_rgb_jpeg_is_kept_byte_for_byte(data: bytes) -> None:
    assert check(data) == (24, 40)
    assert conform([data, saved(PIXELS), data], ImageFormat(), "bag: image") == [data, saved(PIXELS), data]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty image, expected an RGB JPEG"),
        (b"not an image", "12 bytes of an unknown image format"),
        (saved(PIXELS, "PNG"), "a PNG of 8 bits, expected"),
        (png16(), "a PNG of 16 bits"),
        (saved(PIXELS, mode="L"), "a JPEG of 8 bits and 1 channels, expected 8 bits, RGB"),
        (saved(PIXELS, mode="CMYK"), "a JPEG of 8 bits and 4 channels"),
        (saved(PIXELS)[:-2], "a truncated JPEG: no end marker"),
        (saved(PIXELS)[:300], "a truncated or corrupt JPEG: incomplete header"),
        (saved(PIXELS)[:-40] + b"\xff\xd8\xff\xe0" + bytes(200), "a corrupt JPEG: marker 0xd8"),
        (saved(PIXELS) + bytes(100), "a corrupt JPEG: marker 0xd9"),
    ],
)
def test_other_image_data_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=f"bag: image of step 1: {reason}"):
        conform([saved(PIXELS), data], ImageFormat(), "bag: image")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png16(), "a PNG of 16 bits"),
        (b"x" * 9, "9 bytes"),
        (b"", "empty"),
        (saved(PIXELS), "40x24 px: not square, a square of 32 px would distort it"),
    ],
)
def test_image_that_cannot_be_resized_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=f"bag: image of step 0: .*{reason}"):
        conform([data], ImageFormat(32), "bag: image")


def test_two_sizes_of_one_camera_are_refused_unless_resized() -> None:
    with pytest.raises(UserError, match="of step 2: 32x32 px, the first one has 40x24 px"):
        conform([saved(PIXELS), saved(PIXELS), jpeg(32, 0)], ImageFormat(), "bag: image")
    assert {check(data) for data in conform([jpeg(64, 0), jpeg(32, 0)], ImageFormat(48), "")} == {(48, 48)}


def test_png_is_encoded_and_a_jpeg_of_the_right_size_is_kept() -> None:
    square = np.kron(PIXELS[:3, :3], np.ones((8, 8, 1), np.uint8)).astype(np.uint8)
    first, second = conform([saved(square, "PNG"), saved(square)], ImageFormat(24, jpeg_quality=100), "")
    assert check(first) == (24, 24)
    assert np.abs(decode_jpeg(first).astype(int) - square).mean() < 20
    assert second == saved(square)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_bytes_are_accepted_or_raise_value_error(data: st.DataObject) -> None:
    content = bytearray(saved(PIXELS, progressive=data.draw(st.booleans())))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    with contextlib.suppress(ValueError):
        height, width = check(bytes(content))
        assert 0 <= height <= 0xFFFF and 0 <= width <= 0xFFFF
