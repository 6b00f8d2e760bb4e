"""Hypothesis strategies: arbitrary episodes, and datasets of them on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rldg_data.episodes.episode import METADATA_TYPES, Episode
from rldg_data.rlds.examples import to_features
from rldg_data.rlds.layout import Split, dataset_info, features_json, shard_name
from rldg_data.rlds.tfrecord import RECORD_OVERHEAD_BYTES, encode_example, write_record
from rldg_data.testing.steps import jpeg

any_text = st.text(st.characters(codec="utf-8"), max_size=12)
SIZES = {"image": (32, 32), "wrist_image": (16, 16)}


@st.composite
def random_episodes(draw: st.DrawFn, image_keys: Sequence[str] = ("image",)) -> Episode:
    """Every field arbitrary within its type; floats are any but NaN."""
    steps = draw(st.integers(1, 5))

    def floats(*shape: int) -> np.ndarray:
        elements = st.floats(width=32, allow_nan=False)
        return draw(npst.arrays(np.float32, (steps, *shape), elements=elements))

    def flags() -> np.ndarray:
        return draw(npst.arrays(np.bool_, steps))

    values = {str: any_text, int: st.integers(-(2**63), 2**63 - 1), bool: st.booleans()}
    return Episode(
        images={key: [jpeg(SIZES[key][0], draw(st.integers(0, 5))) for _ in range(steps)] for key in image_keys},
        timestamp_s=floats(),
        state=floats(8),
        twist=floats(6),
        wrench=floats(6),
        action=floats(7),
        reward=floats(),
        is_first=flags(),
        is_last=flags(),
        is_terminal=flags(),
        instruction=draw(any_text),
        metadata={key: draw(values[kind]) for key, kind in METADATA_TYPES.items()},
    )


def write_dataset(folder: Path, splits: dict[str, list[list[Episode]]], image_keys: Sequence[str] = ("image",)) -> Path:
    """A dataset in `folder` itself. splits: name -> shards -> episodes."""
    described = {}
    for split, shards in splits.items():
        num_bytes = 0
        for index, episodes in enumerate(shards):
            with (folder / shard_name("random", split, index, len(shards))).open("wb") as stream:
                for episode in episodes:
                    write_record(stream, *encode_example(to_features(episode)))
                num_bytes += stream.tell() - RECORD_OVERHEAD_BYTES * len(episodes)
        described[split] = Split(tuple(map(len, shards)), num_bytes)
    for name, value in {
        "dataset_info": dataset_info("random", "1.0.0", "made up", described),
        "features": features_json({key: SIZES[key] for key in image_keys}),
        "dataset_statistics": {"action": {}},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def assert_same_episode(left: Episode, right: Episode) -> None:
    """Every field, bit for bit."""
    assert set(vars(left)) == set(vars(right))
    for name, value in vars(left).items():
        other = getattr(right, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value, other, err_msg=name)
        else:
            assert value == other, name
