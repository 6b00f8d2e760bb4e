"""Headers of JPEG (ITU-T T.81, annex B) and PNG files, checked without decoding the file."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SIDE_PX = 8192
MAX_PIXELS = 2**25
"""8192x4096. Cameras of tasks have at most 4096x4096."""

_START, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers: the segment that holds precision, size and number of components."""
_SCAN = 0xDA
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PIXELS_PER_BYTE = 8 * 64
"""Maximum pixels per byte of a JPEG: a block of 64 pixels takes at least one bit."""
_DEFLATE_RATIO = 1032
"""Maximum compression ratio of DEFLATE, which PNG uses."""


@dataclass(frozen=True)
class Header:
    """Declared size and format. bits: per channel. scan: offset of the first scan of a JPEG, 0 for a PNG."""

    kind: str
    height: int
    width: int
    bits: int
    channels: int
    scan: int = 0


def read_header(data: bytes) -> Header:
    """Read the header of a JPEG or PNG. Raises ValueError naming the actual content.

    A size that is too large, or that the bytes of the file cannot hold, is refused: decoding would allocate it.
    """
    if data.startswith(_START):
        header = _jpeg(data)
        enough = header.height * header.width <= _PIXELS_PER_BYTE * len(data)
    elif data.startswith(_PNG):
        header = _png(data)
        row_bytes = 1 + (header.width * header.channels * header.bits + 7) // 8
        enough = header.height * row_bytes <= _DEFLATE_RATIO * len(data)
    else:
        raise ValueError(f"{len(data)} bytes, neither a JPEG nor a PNG image" if data else "empty image")
    size = f"{header.width}x{header.height} px"
    if min(header.height, header.width) < 1:
        raise ValueError(f"a corrupt {header.kind}: {size}")
    if max(header.height, header.width) > MAX_SIDE_PX or header.height * header.width > MAX_PIXELS:
        raise ValueError(f"a {header.kind} of {size}, expected at most {MAX_SIDE_PX} px per side and {MAX_PIXELS:,} px")
    if not enough:
        raise ValueError(f"a corrupt {header.kind}: its header claims {size}, which {len(data)} bytes cannot hold")
    return header


def _jpeg(data: bytes) -> Header:
    frame, position = None, 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # any number of them may precede a marker
            position += 1
            continue
        if marker == _SCAN:
            if frame is None:
                break
            return Header("JPEG", *frame, scan=position)
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _FRAMES:
            segment = data[position + 4 : position + 2 + length]
            if len(segment) < 6 or frame is not None:
                break
            height, width = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
            frame = height, width, segment[0], segment[5]
        position += 2 + length
    raise ValueError("a truncated or corrupt JPEG: incomplete header")


def _png(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR" or data[25] not in _PNG_CHANNELS:
        raise ValueError("a truncated or corrupt PNG: incomplete header")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return Header("PNG", height, width, data[24], _PNG_CHANNELS[data[25]])
