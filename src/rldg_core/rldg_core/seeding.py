"""Derived seeds: every random generator of the suite is seeded by one seed and a path of labels."""

from __future__ import annotations

import hashlib

MAX_SEED = 2**32 - 1
"""Maximum seed of a user: numpy's and torch's generators accept no larger one."""


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and on every label.

    Independent of Python's hash randomisation and of call order, so that the same (seed, labels) gives
    the same stream in every process. 63 bits fit ROS's uint64, msgpack, YAML and numpy alike.
    """
    text = "/".join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
