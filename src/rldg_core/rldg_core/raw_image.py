"""Encodings of sensor_msgs/Image -> RGB. What is not listed (depth, 16 bits, unnamed channels such as 8UC3) is refused.

YUV is converted as cv_bridge does it: ITU-R BT.601, limited range. Bayer patterns are interpolated bilinearly.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

CHANNELS: Mapping[str, tuple[int, int, int]] = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2),
    "bgra8": (2, 1, 0),
    "mono8": (0, 0, 0),
}
"""Packed encodings -> where red, green and blue are within a pixel."""

CONVERSIONS: Mapping[str, str] = {
    "yuv422_yuy2": "COLOR_YUV2RGB_YUY2",
    "yuyv": "COLOR_YUV2RGB_YUY2",
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "nv21": "COLOR_YUV2RGB_NV21",
    "nv12": "COLOR_YUV2RGB_NV12",
    "bayer_rggb8": "COLOR_BayerRGGB2RGB",
    "bayer_bggr8": "COLOR_BayerBGGR2RGB",
    "bayer_gbrg8": "COLOR_BayerGBRG2RGB",
    "bayer_grbg8": "COLOR_BayerGRBG2RGB",
}
"""Encodings that OpenCV converts -> its code. `yuv422` is UYVY, see sensor_msgs/image_encodings.hpp."""

ENCODINGS = (*CHANNELS, *CONVERSIONS)


def decode_raw(encoding: str, width: int, height: int, step: int, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes of an image message -> (height, width, 3) uint8 RGB; row padding (`step`, bytes per row) is removed.

    Raises ValueError on another encoding, or when size, step and number of bytes contradict each other.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"image encoding is {encoding!r}, expected one of {', '.join(ENCODINGS)}")
    depth = _bytes_per_pixel(encoding)
    rows = height * _rows_per_line(encoding)
    halved = encoding in ("nv21", "nv12") or depth == 2
    if (
        width < 1
        or height < 1
        or step < width * depth
        or data.size != step * rows
        or (halved and width % 2)
        or rows.denominator != 1
    ):
        raise ValueError(f"{data.size} bytes with step {step} are no {width}x{height} {encoding} image")
    pixels = data.reshape(int(rows), step)[:, : width * depth].reshape(int(rows), width, depth)
    if encoding in CHANNELS:
        return pixels if encoding == "rgb8" else np.ascontiguousarray(pixels[..., list(CHANNELS[encoding])])
    # OpenCV is slow to import, and most cameras do without it.
    import cv2

    planes = np.ascontiguousarray(pixels if depth == 2 else pixels[..., 0])
    return np.asarray(cv2.cvtColor(planes, getattr(cv2, CONVERSIONS[encoding])), dtype=np.uint8)


def _bytes_per_pixel(encoding: str) -> int:
    """Of a row; NV12 and NV21 have one byte of luma per pixel and their colours in rows below."""
    if encoding in CHANNELS:
        return 1 if encoding == "mono8" else 4 if encoding.endswith("a8") else 3
    return 2 if encoding.startswith(("yu", "uy")) else 1


def _rows_per_line(encoding: str) -> Fraction:
    return Fraction(3, 2) if encoding.startswith("nv") else Fraction(1)
