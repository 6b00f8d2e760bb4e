"""Images of foreign bags -> JPEG files as the suite records them: cropped, square, RGB."""

from __future__ import annotations

from typing import Any

from rldg_core import from_msg
from rldg_core.image_codec import crop, decode_jpeg, encode_jpeg, resize
from rldg_data.foreign.mapping import CameraMapping
from rldg_data.foreign.topics import ForeignBag, Series


def camera_frames(bag: ForeignBag, camera: CameraMapping, stamps: Series, chosen: list[int]) -> list[bytes]:
    """JPEG files of the chosen frames (indices into stamps); no others are kept or converted.

    stamps: positions of the messages in the topic, in the order of their stamps. Raises UserError naming bag, topic
    and message on an image that cannot be used.
    """
    # A bag is read in the order of log times, `chosen` counts in that of stamps.
    wanted = {stamps.values[index] for index in chosen}
    files = bag.read(camera.topic, lambda message, _, number: to_jpeg(message, camera) if number in wanted else b"")
    return [files.values[index] for index in chosen]


def to_jpeg(message: Any, camera: CameraMapping) -> bytes:
    """sensor_msgs/Image or CompressedImage -> JPEG. Raises ValueError on an image that cannot be used."""
    if hasattr(message, "encoding"):
        image = from_msg.image(message)
    elif hasattr(message, "format"):
        data = bytes(memoryview(message.data))
        image = decode_jpeg(data)
        # 16 bits (a PNG of depth) would be squeezed into 8 without a word.
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] != 8:
            raise ValueError(f"a PNG of {data[24]} bits, expected 8")
        if data[:2] == b"\xff\xd8" and camera.crop is None and image.shape[:2] == (camera.size_px, camera.size_px):
            return data
    else:
        raise ValueError(f"{type(message).__name__} is no image")
    if camera.crop:
        image = crop(image, camera.crop.x, camera.crop.y, camera.crop.width, camera.crop.height)
    return encode_jpeg(resize(image, camera.size_px), camera.jpeg_quality)
