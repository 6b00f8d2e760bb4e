"""Inputs of the vision towers: known values of resize, normalisation and centre crop; training sees the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as PillowImage

from rldg_core.image_codec import decode_jpeg, encode_jpeg
from rldg_policy.openvla.processing import pixel_values, serving_view, training_view
from rldg_policy.training.augment import OPENVLA_AUGMENT, augment, resize_lanczos

MEAN = [0.484375, 0.455078125, 0.40625, 0.5, 0.5, 0.5]
STD = [0.228515625, 0.2236328125, 0.224609375, 0.5, 0.5, 0.5]


def framed(size: int, border: int) -> bytes:
    """Return a lossless black image with a white frame, `border` pixels wide."""
    image = np.full((size, size, 3), 255, dtype=np.uint8)
    image[border:-border, border:-border] = 0
    return encode_jpeg(image, 100)


def test_normalisation_of_both_towers():
    image = np.zeros((224, 224, 3), dtype=np.uint8)
    image[...] = (255, 51, 0)
    values = pixel_values([image, image])
    assert values.shape == (2, 6, 224, 224)
    expected = [(v - m) / s for v, m, s in zip([1.0, 0.2, 0.0] * 2, MEAN, STD, strict=True)]
    np.testing.assert_allclose(values[1, :, 100, 7].numpy(), expected, atol=1e-6)
    assert values.dtype.is_floating_point
    assert values.numpy().dtype == np.float32


def test_resize_ignores_the_aspect_ratio_and_is_bicubic():
    """Any aspect ratio fills the square; the step response overshoots, as the bicubic kernel's does."""
    image = np.full((120, 480, 3), 60, dtype=np.uint8)
    image[:, 240:] = 200
    channel = pixel_values([image])[0, 3].numpy() * 0.5 + 0.5
    expected = np.asarray(PillowImage.fromarray(image).resize((224, 224), PillowImage.Resampling.BICUBIC))[..., 0]
    np.testing.assert_allclose(channel * 255, expected, atol=1e-3)
    assert channel.max() * 255 > 200.5
    assert np.ptp(channel, axis=0).max() < 1e-6


def test_centre_crop_equals_the_mean_of_random_crops():
    """sqrt(0.9) of each side: 5.7 of 224 pixels are removed at each border, instead of 11.2 with 0.9 of the side."""
    thin, thick = serving_view(framed(224, 5), True), serving_view(framed(224, 9), True)
    assert thin.shape == thick.shape == (224, 224, 3)
    assert thin[0].mean() < 60
    assert thick[0].mean() > 240
    assert serving_view(framed(224, 5), False)[0].mean() > 240


def test_serving_without_crop_equals_training_without_augmentation():
    rng = np.random.default_rng(0)
    jpeg = encode_jpeg(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8))
    np.testing.assert_array_equal(serving_view(jpeg, False), training_view(jpeg, None))
    np.testing.assert_array_equal(training_view(jpeg, None), resize_lanczos(decode_jpeg(jpeg), 224))


def test_training_crops_once():
    jpeg = framed(256, 20)
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    expected = augment([resize_lanczos(decode_jpeg(jpeg), 224)], OPENVLA_AUGMENT, same)[0]
    np.testing.assert_array_equal(training_view(jpeg, rng), expected)
    assert expected.shape == (224, 224, 3)


def test_bytes_without_an_image_are_refused():
    with pytest.raises(ValueError, match="neither a JPEG nor a PNG"):
        serving_view(b"nothing", True)
