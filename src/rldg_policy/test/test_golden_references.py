"""The golden references: the rule that draws their weights, and their size in the repository."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from golden.drawn import image, noise, uniform, weight

FOLDER = Path(__file__).parent / "golden"


def by_hand(name: str, count: int) -> list[float]:
    """Compute the rule of README.md in integers, which is exact in float64."""
    stream = hashlib.shake_128(name.encode()).digest(4 * count)
    return [(int.from_bytes(stream[4 * n + 1 : 4 * n + 4], "little") - 2**23) / 2**23 for n in range(count)]


def test_uniform_follows_the_stated_rule():
    drawn = uniform("lm_head.weight", (3, 2))
    assert drawn.dtype == np.float32 and drawn.ravel().tolist() == by_hand("lm_head.weight", 6)
    assert drawn[0, 0] == -1370092 / 2**23


@pytest.mark.parametrize(
    ("name", "shape", "layout", "centre", "deviation"),
    [
        ("fc.weight", (50, 400), "torch", 0.0, 400**-0.5),
        ("Dense_0/kernel", (400, 50), "flax", 0.0, 400**-0.5),
        ("conv.weight", (64, 3, 14, 14), "torch", 0.0, (3 * 14 * 14) ** -0.5),
        ("Conv_0/kernel", (8, 8, 3, 64), "flax", 0.0, (8 * 8 * 3) ** -0.5),
        ("embed_tokens.weight", (200, 100), "torch", 0.0, 1.0),
        ("obs_primary_pos_embedding", (1, 10, 64, 30), "flax", 0.0, 1.0),
        ("norm.weight", (10_000,), "torch", 1.0, 48**-0.5),
        ("fc.bias", (10_000,), "torch", 0.0, 48**-0.5),
    ],
)
def test_weights_have_the_stated_mean_and_deviation(name, shape, layout, centre, deviation):
    drawn = weight(name, shape, layout)
    assert drawn.shape == shape and drawn.dtype == np.float32
    assert drawn.mean() == pytest.approx(centre, abs=0.05 * deviation)
    assert drawn.std() == pytest.approx(deviation, rel=0.03)


def test_image_bytes_are_the_stream_and_noise_has_unit_variance():
    assert image("image_primary", (2, 2)).tobytes() == hashlib.shake_128(b"image_primary").digest(4)
    assert noise("pixel_values", (100, 100)).std() == pytest.approx(1.0, rel=0.03)


def test_references_take_at_most_one_megabyte():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if "__pycache__" not in path.parts) <= 1_000_000
