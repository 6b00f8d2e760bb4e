"""Parse the structure of JPEG files (ITU-T T.81, annex B) without decoding: fast enough for every frame."""

from __future__ import annotations

import re

from rldg_core.image_header import read_header

_START, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_END = 0xD9
_BETWEEN_SCANS = frozenset({0xC4, 0xDA, 0xDB, 0xDD, 0xFE})
"""Markers that may follow a scan of a progressive file: tables, comments, the next scan."""
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
"""The next marker after entropy-coded data, where 0xff is stuffed with 0x00 and restart markers belong to the data."""
_TAIL_BYTES = 64
"""Padding that some cameras write after the end marker."""


def check(data: bytes) -> tuple[int, int]:
    """(height, width) [px] of a complete JPEG of 8-bit RGB.

    Raises ValueError naming the actual content: another format, greyscale, 16-bit, truncated, or no JPEG data after the
    header. Pixel values are not checked; the CRCs of a bag protect those.
    """
    size, scan = header(data)
    check_scans(data, scan)
    return size


def header(data: bytes) -> tuple[tuple[int, int], int]:
    """(height, width) [px] and where the first scan begins. Raises ValueError as `check`."""
    if not data.startswith(_START):
        raise ValueError(f"{_kind(data)}, expected an RGB JPEG")
    found = read_header(data)
    if (found.bits, found.channels) != (8, 3):
        raise ValueError(f"a JPEG of {found.bits} bits and {found.channels} channels, expected 8 bits, RGB")
    return (found.height, found.width), found.scan


def check_scans(data: bytes, scan: int) -> None:
    """Check that entropy-coded data follow, up to the end marker. scan: position of the first scan."""
    position = scan
    while position + 4 <= len(data):
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if not (found := _MARKER.search(data, position)):
            break
        position, marker = found.start(), found[1][0]
        if marker == _END and len(data) - position <= _TAIL_BYTES:
            return
        if marker not in _BETWEEN_SCANS:
            raise ValueError(f"a corrupt JPEG: marker {marker:#x} in the middle of its data")
    raise ValueError("a truncated JPEG: no end marker")


def is_png(data: bytes) -> bool:
    """Return whether the data have a PNG signature. Raises ValueError for a PNG with more than 8 bits per channel."""
    if not data.startswith(_PNG):
        return False
    if data[24:25] > b"\x08":
        raise ValueError(_kind(data))
    return True


def _kind(data: bytes) -> str:
    if data.startswith(_PNG):
        return f"a PNG of {data[24] if len(data) > 24 else 0} bits"
    return f"{len(data)} bytes of an unknown image format" if data else "an empty image"
