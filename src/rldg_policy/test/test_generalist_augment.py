"""Augmentation compared with formulas and with results of TensorFlow."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldg_policy.training.augment import (
    OCTO_PRIMARY_AUGMENT,
    OPENVLA_AUGMENT,
    Augmentation,
    AugmentationParameters,
    apply,
    augment,
    centre_crop,
    crop_and_resize,
    draw,
    resize_lanczos,
)

WHOLE = (0.0, 0.0, 1.0, 1.0)


def pattern(size: int) -> np.ndarray:
    """Return an image in which every channel is another ramp modulo 256."""
    row, column, channel = np.mgrid[:size, :size, :3]
    return ((37 * row + 91 * column + 53 * channel**2) % 256).astype(np.uint8)


def picture(size: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_whole_chain_equals_tensorflow():
    """Source: tf 2.20: crop_and_resize, adjust_brightness, _contrast, _saturation, _hue with clipping,
    convert_image_dtype."""
    expected = [
        [0, 0, 163, 35, 130, 2, 137, 185, 106, 0, 0, 183, 37, 129, 33],
        [0, 16, 197, 88, 138, 47, 194, 0, 100, 7, 71, 0, 66, 167, 34],
        [19, 115, 5, 88, 176, 85, 31, 0, 185, 20, 109, 0, 104, 206, 73],
        [52, 153, 20, 124, 214, 125, 2, 0, 224, 50, 148, 29, 186, 0, 78],
        [111, 149, 67, 195, 40, 106, 20, 90, 68, 86, 186, 57, 58, 0, 172],
    ]
    found = apply(pattern(5), AugmentationParameters((0.03, 0.05, 0.93, 0.97), -0.11, 1.15, 1.2, 0.04))
    assert np.abs(found.astype(int) - np.array(expected).reshape(5, 5, 3)).max() <= 1


def test_lanczos_equals_tensorflow():
    """Source: tf 2.20: tf.image.resize(method="lanczos3", antialias=True), rounded."""
    expected = [
        [108, 135, 131, 127, 135, 129, 140, 127, 125, 130, 138, 122],
        [124, 138, 133, 114, 135, 129, 130, 135, 128, 137, 128, 127],
        [119, 118, 133, 123, 137, 131, 115, 134, 131, 129, 138, 125],
        [128, 120, 137, 122, 116, 132, 122, 142, 130, 110, 132, 134],
    ]
    found = resize_lanczos(pattern(16), 4)
    assert np.abs(found.astype(int) - np.array(expected).reshape(4, 4, 3)).max() <= 1


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.2, 0.2), st.floats(0.8, 1.2), st.floats(0.8, 1.2), st.floats(-0.1, 0.1), st.integers(0, 100)
)  # fmt: skip
def test_colours_follow_the_formulas(brightness, contrast, saturation, hue, seed):
    """Additive brightness, contrast about each channel's mean, saturation and hue in HSV; pixel by pixel."""
    image = picture(4, seed)
    x = np.clip(image / 255 + brightness, 0, 1)
    mean = x.mean(axis=(0, 1))
    x = np.clip((x - mean) * contrast + mean, 0, 1)
    expected = np.empty((4, 4, 3))
    for row in range(4):
        for column in range(4):
            h, s, v = colorsys.rgb_to_hsv(*x[row, column])
            expected[row, column] = colorsys.hsv_to_rgb((h + hue) % 1, min(s * saturation, 1), v)
    found = apply(image, AugmentationParameters(WHOLE, brightness, contrast, saturation, hue))
    assert np.abs(found - np.clip(expected * 255.5, 0, 255)).max() < 1.02


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.5, 0.6), st.integers(2, 9))
def test_crop_maps_corners_to_corners(top, left, side, size):
    """Source: tf.image.crop_and_resize: output pixel i lies at top * (H - 1) + i * side * (H - 1) / (H - 1)."""
    plane = np.add.outer(3.0 * np.arange(size), 5.0 * np.arange(size))
    image = np.repeat(plane[..., None], 3, axis=2).astype(np.float32)
    found = crop_and_resize(image, (top, left, top + side, left + side))
    steps = np.arange(size) * side
    expected = np.add.outer(3 * (top * (size - 1) + steps), 5 * (left * (size - 1) + steps))
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-3)


def test_neutral_parameters_keep_the_image():
    image = picture()
    assert np.abs(apply(image, AugmentationParameters(WHOLE, 0.0, 1.0, 1.0, 0.0)).astype(int) - image).max() <= 1


@pytest.mark.parametrize(("table", "area"), [(OPENVLA_AUGMENT, (0.9, 0.9)), (OCTO_PRIMARY_AUGMENT, (0.8, 1.0))])
def test_draws_cover_the_ranges_of_upstream(table: Augmentation, area):
    draws = [draw(table, np.random.default_rng(seed)) for seed in range(400)]
    for d in draws:
        top, left, bottom, right = d.box
        height, width = bottom - top, right - left
        assert area[0] - 1e-6 <= height * width <= area[1] + 1e-6 and top >= 0 and bottom <= 1 + 1e-9
        assert table.crop_ratio[0] - 1e-6 <= width / height <= table.crop_ratio[1] + 1e-6
        assert abs(d.brightness) <= table.brightness and abs(d.hue) <= table.hue
    low, high = np.quantile([d.contrast for d in draws], [0.02, 0.98])
    assert low < table.contrast[0] + 0.03 and high > table.contrast[1] - 0.03
    together = np.corrcoef([d.contrast for d in draws], [d.saturation for d in draws])[0, 1]
    assert together > 0.999 if table.one_draw else abs(together) < 0.2


def test_openvla_crops_move_along_the_diagonal():
    """Source: dlimp's random_resized_crop uses one seed for both offsets."""
    boxes = np.array([draw(OPENVLA_AUGMENT, np.random.default_rng(seed)).box for seed in range(50)])
    np.testing.assert_allclose(boxes[:, 0], boxes[:, 1], atol=1e-12)
    assert boxes[:, 0].std() > 0.01 and boxes[:, 0].max() <= 1 - 0.9**0.5


def test_images_of_a_window_are_augmented_alike_and_seeds_repeat():
    image = picture()
    first, second = augment([image, image], OPENVLA_AUGMENT, np.random.default_rng(3))
    assert np.array_equal(first, second) and not np.array_equal(first, image)
    (again,) = augment([image], OPENVLA_AUGMENT, np.random.default_rng(3))
    (other,) = augment([image], OPENVLA_AUGMENT, np.random.default_rng(4))
    assert np.array_equal(again, first) and not np.array_equal(other, first)


def test_centre_crop_keeps_the_middle():
    image = np.zeros((101, 101, 3), np.uint8)
    image[50, 50] = 255
    image[:2] = image[-2:] = 255
    found = centre_crop(image)
    assert found.shape == image.shape and found[50, 50].min() > 200 and found[0].max() == found[-1].max() == 0
    assert np.array_equal(centre_crop(picture(), area=1.0), picture())
