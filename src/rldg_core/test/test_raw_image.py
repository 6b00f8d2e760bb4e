"""Every accepted encoding of sensor_msgs/Image gives the right colours; contradictory messages are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_core.from_msg import CONVERSIONS, ENCODINGS, image

HEIGHT, WIDTH = 12, 16
Pixels = Any


def luma_chroma(rgb: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return Y, Cb, Cr of ITU-R BT.601 in limited range."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    y, cb, cr = np.rint(matrix @ rgb + [16, 128, 128]).astype(int)
    return y, cb, cr


def encoded(rgb: tuple[int, int, int], encoding: str) -> Pixels:
    """Return the rows of an image of one colour, (rows, bytes per row)."""
    red, green, blue = rgb
    y, cb, cr = luma_chroma(rgb)
    packed = {
        "rgb8": [red, green, blue],
        "bgr8": [blue, green, red],
        "rgba8": [red, green, blue, 7],
        "bgra8": [blue, green, red, 7],
        "mono8": [red],
        "yuv422_yuy2": [y, cb, y, cr],
        "yuyv": [y, cb, y, cr],
        "yuv422": [cb, y, cr, y],
        "uyvy": [cb, y, cr, y],
    }
    if encoding in packed:
        pixels = 2 if len(packed[encoding]) == 4 and not encoding.endswith("a8") else 1
        return np.tile(np.array(packed[encoding], np.uint8), (HEIGHT, WIDTH // pixels))
    if encoding.startswith("nv"):
        chroma = [cr, cb] if encoding == "nv21" else [cb, cr]
        below = np.tile(np.array(chroma, np.uint8), (HEIGHT // 2, WIDTH // 2))
        return np.concatenate([np.full((HEIGHT, WIDTH), y, np.uint8), below])
    pattern = [{"r": red, "g": green, "b": blue}[c] for c in encoding.removeprefix("bayer_")[:4]]
    return np.tile(np.array(pattern, np.uint8).reshape(2, 2), (HEIGHT // 2, WIDTH // 2))


def message(rows: Pixels, encoding: str, padding: int = 0, **changes: Any) -> SimpleNamespace:
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    fields = {"encoding": encoding, "width": WIDTH, "height": HEIGHT, "step": padded.shape[1], "data": padded.tobytes()}
    return SimpleNamespace(**{**fields, **changes})


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=12, deadline=None)
@given(rgb=st.tuples(*[st.integers(0, 255)] * 3), padding=st.integers(0, 5))
def test_colours_are_decoded_from_every_encoding(encoding: str, rgb: tuple[int, int, int], padding: int) -> None:
    got = image(message(encoded(rgb, encoding), encoding, padding))
    assert (got.shape, got.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    expected = (rgb[0],) * 3 if encoding == "mono8" else rgb
    tolerance = 3 if encoding.startswith(("yu", "uy", "nv")) else 0
    assert np.abs(got.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("changes", [{"data": b""}, {"step": 5}, {"width": 0}, {"height": 0}, {"height": HEIGHT + 2}])
def test_contradictory_sizes_are_refused(encoding: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"bytes with step \d+ do not hold a \d+x\d+ {encoding} image"):
        image(message(encoded((1, 2, 3), encoding), encoding, **changes))


@pytest.mark.parametrize("encoding", [name for name in CONVERSIONS if not name.startswith("bayer")])
def test_subsampled_colours_need_an_even_width(encoding: str) -> None:
    with pytest.raises(ValueError, match="do not hold a 15x12"):
        image(message(encoded((1, 2, 3), encoding), encoding, width=WIDTH - 1))


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1", "mono16", "rgb16", "8UC3", "bayer_rggb16", "nv24", "RGB8", ""])
def test_other_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(ValueError, match=rf"image encoding is '{encoding}', expected one of rgb8, .*yuv422_yuy2"):
        image(message(encoded((1, 2, 3), "rgb8"), encoding))
