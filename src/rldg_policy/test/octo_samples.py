"""A very small Octo for tests: it compiles in a second."""

from __future__ import annotations

from rldg_policy.octo.random import OctoSize

SMALLEST = OctoSize(image_size=32, window=2, width=32, layers=1, heads=2, mlp=32, stem=(32,) * 4, stem_features=16)
