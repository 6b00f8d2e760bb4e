"""JPEG encoding and decoding, crop and resize. Images are (H, W, 3) uint8 RGB everywhere in the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from rldg_core.image_header import read_header

if TYPE_CHECKING:
    from rldg_core.task import CameraConfig

Image = NDArray[np.uint8]

JPEG_FORMAT = "rgb8; jpeg compressed bgr8"
"""`format` field of sensor_msgs/CompressedImage, as compressed_image_transport writes it."""

_DECODING = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def encode_jpeg(image: Image, quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG. Raises ValueError on any other shape or dtype."""
    _check(image)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as JPEG")
    return data.tobytes()


def decode_jpeg(data: bytes) -> Image:
    """Decode JPEG (or PNG) bytes to (H, W, 3) uint8 RGB. Raises ValueError on anything else.

    The header is checked first (rldg_core.image_header). More than 8 bits per channel are refused: they would
    lose precision. EXIF rotation is ignored, as in TensorFlow and the dataset readers.
    """
    header = read_header(data)
    if header.bits > 8:
        raise ValueError(f"a {header.kind} of {header.bits} bits, expected 8")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), _DECODING)
    except cv2.error as error:
        raise ValueError(f"a corrupt {header.kind}: {error.err}") from error
    if image is None:
        raise ValueError(f"a corrupt {header.kind} of {len(data)} bytes")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def resize(image: Image, size: int) -> Image:
    """Resize to (size, size, 3); area averaging when shrinking, so that fine edges survive."""
    _check(image)
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    shrinks = height >= size and width >= size
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation), dtype=np.uint8)


def crop(image: Image, x: int, y: int, width: int, height: int) -> Image:
    """Crop to a rectangle [px]. Raises ValueError when it exceeds the image."""
    _check(image)
    rows, columns = image.shape[:2]
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > columns or y + height > rows:
        raise ValueError(f"crop x={x} y={y} {width}x{height} exceeds the {columns}x{rows} image")
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def policy_jpeg(image: Image, camera: CameraConfig) -> bytes:
    """Image of a driver (camera.height, camera.width, 3) -> JPEG as policies see it: cropped, a square, compressed."""
    if camera.crop:
        image = crop(image, camera.crop.x, camera.crop.y, camera.crop.width, camera.crop.height)
    return encode_jpeg(resize(image, camera.image_size), camera.jpeg_quality)


def _check(image: Image) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an (H, W, 3) uint8 image, got {image.shape} {image.dtype}")
