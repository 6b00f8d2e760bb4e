"""Prepare camera images for a dataset: check them, then pass them through or decode, resize and encode."""

from __future__ import annotations

from collections.abc import Sequence

from rldg_core.errors import UserError
from rldg_data.episodes import jpeg
from rldg_data.plan import ImageFormat


def text(size: tuple[int, int]) -> str:
    """Format (height, width) as WIDTHxHEIGHT px."""
    return f"{size[1]}x{size[0]} px"


def conform(files: Sequence[bytes], image_format: ImageFormat, name: str) -> list[bytes]:
    """Convert the images of one camera in one episode to the format; all get the same size.

    A JPEG of the target size keeps its bytes. Raises UserError `NAME of step N: reason`.
    """
    conformed: list[bytes] = []
    known, first_size = b"", (0, 0)
    for step, data in enumerate(files):
        try:
            if image_format.size_px is not None:
                conformed.append(_resized(data, image_format.size_px, image_format.jpeg_quality))
            # An encoder writes the same header for every frame.
            elif known and data.startswith(known):
                jpeg.check_scans(data, len(known))
                conformed.append(data)
            else:
                size, scan = jpeg.header(data)
                jpeg.check_scans(data, scan)
                if conformed and size != first_size:
                    raise ValueError(f"{text(size)}, the first one has {text(first_size)}")
                known, first_size = data[:scan], size
                conformed.append(data)
        except ValueError as error:
            raise UserError(f"{name} of step {step}: {error}") from error
    return conformed


def _resized(data: bytes, size_px: int, jpeg_quality: int) -> bytes:
    if not jpeg.is_png(data) and jpeg.check(data) == (size_px, size_px):
        return data
    # OpenCV is slow to import and not needed to pass images through.
    from rldg_core.image_codec import decode_jpeg, encode_jpeg, resize

    image = decode_jpeg(data)
    if image.shape[0] != image.shape[1]:
        raise ValueError(f"{text(image.shape[:2])}: not square, a square of {size_px} px would distort it")
    return encode_jpeg(resize(image, size_px), jpeg_quality)
