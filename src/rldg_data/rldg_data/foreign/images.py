"""Images of foreign bags -> JPEG files as the suite records them: cropped, square, RGB."""

from __future__ import annotations

from typing import Any, NamedTuple

from rldg_core import from_msg
from rldg_core.image_codec import crop, decode_jpeg, encode_jpeg, resize
from rldg_data.foreign.mapping import CameraMapping
from rldg_data.foreign.topics import ForeignBag, Series


class Frames(NamedTuple):
    """JPEG files, and the width and height [px] that the driver published."""

    files: list[bytes]
    width: int
    height: int


def camera_frames(bag: ForeignBag, camera: CameraMapping, stamps: Series, chosen: list[int]) -> Frames:
    """The chosen frames (indices into stamps); no others are kept or converted.

    stamps: positions of the messages in the topic, in the order of their stamps. Raises UserError naming bag, topic
    and message on an image that cannot be used, or that is of another size than the first.
    """
    # A bag is read in the order of log times, `chosen` counts in that of stamps.
    wanted = {stamps.values[index] for index in chosen}
    sizes: list[tuple[int, int]] = []

    def take(message: Any, _type: str, number: int) -> bytes:
        if number not in wanted:
            return b""
        jpeg, size = to_jpeg(message, camera)
        if sizes and size != sizes[0]:
            raise ValueError(f"{size[0]}x{size[1]} px, the first one has {sizes[0][0]}x{sizes[0][1]}")
        sizes.append(size)
        return jpeg

    files = bag.read(camera.topic, take, camera.offset_s)
    return Frames([files.values[index] for index in chosen], *sizes[0])


def to_jpeg(message: Any, camera: CameraMapping) -> tuple[bytes, tuple[int, int]]:
    """sensor_msgs/Image or CompressedImage -> (JPEG, (width, height) of the message's image [px]).

    Raises ValueError on an image that cannot be used.
    """
    if hasattr(message, "encoding"):
        image = from_msg.image(message)
    elif hasattr(message, "format"):
        data = bytes(memoryview(message.data))
        image = decode_jpeg(data)
        # 16 bits (a PNG of depth) would be squeezed into 8 without a word.
        if data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] != 8:
            raise ValueError(f"a PNG of {data[24]} bits, expected 8")
        if data[:2] == b"\xff\xd8" and camera.crop is None and image.shape[:2] == (camera.size_px, camera.size_px):
            return data, (image.shape[1], image.shape[0])
    else:
        raise ValueError(f"{type(message).__name__} is no image")
    size = (image.shape[1], image.shape[0])
    if camera.crop:
        image = crop(image, camera.crop.x, camera.crop.y, camera.crop.width, camera.crop.height)
    return encode_jpeg(resize(image, camera.size_px), camera.jpeg_quality), size
