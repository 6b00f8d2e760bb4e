"""Small seeded datasets of insertion episodes and checkpoint files for the tests of all generalists."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rldg_core.frames import twists_of
from rldg_core.image_codec import encode_jpeg
from rldg_data.rlds import METADATA_TYPES, Dataset, Episode, read_dataset
from rldg_data.rlds.examples import to_features
from rldg_data.rlds.layout import Split, dataset_info, features_json, shard_name
from rldg_data.rlds.statistics import dataset_statistics, rows_of
from rldg_data.rlds.tfrecord import RECORD_OVERHEAD_BYTES, encode_example, write_record

INSTRUCTION = "insert the VGA connector into the port"


@cache
def picture(column: int, row: int, size: int, seed: int) -> bytes:
    """Return a JPEG of a bright square on a seeded smooth background; (column, row) is its upper left corner in
    1/64."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 110, (8, 8, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((size // 8, size // 8, 1), np.uint8)).astype(np.uint8)
    unit = size // 64
    image[row * unit : (row + 12) * unit, column * unit : (column + 12) * unit] = (250, 240, 80)
    return encode_jpeg(image, 90)


def made_of(seed: int, camera: str = "wrist", gripper: bool = False, **view: Any) -> str:
    """Return the `provenance` of one recording, by default with the camera of task `insertion`."""
    seen = {"width": 256, "height": 256, "crop": None, "image_size": 256, **view}
    part = {"bag": f"run/bags/episode_{seed:06d}", "blake3": f"{seed:016x}" * 4, "gripper": gripper}
    return json.dumps([{**part, "images": {"image": {"camera": camera, "view": seen}}}])


def make_episode(
    seed: int, transitions: int = 8, size: int = 64, instruction: str = INSTRUCTION, task: str = "insertion"
) -> Episode:
    """Return a successful episode. The action points from the square to the middle, so the image determines it."""
    rng = np.random.default_rng([seed, transitions])
    steps = transitions + 1
    columns, rows = rng.integers(2, 50, (2, steps))
    action = np.zeros((steps, 7), np.float32)
    action[:, 0] = (26 - columns) / 26 * 0.01
    action[:, 1] = (26 - rows) / 26 * 0.01
    action[:, 2] = rng.uniform(0.002, 0.01, steps)
    action[:, 3:6] = rng.uniform(-0.05, 0.05, (steps, 3))
    quaternion = np.array([1.0, 0.0, 0.0, 0.0]) + rng.normal(0, 1e-3, (steps, 4))
    start = rng.uniform(0.3, 0.5, 3)
    state = np.concatenate(
        [
            # The tool points down: the y and z axes of the tcp are opposite to those of the base.
            start + np.cumsum(np.roll(action[:, :3] * [1, -1, -1], 1, axis=0), axis=0),
            quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True),
            np.full((steps, 1), 0.02),
        ],
        axis=1,
    )
    last = np.arange(steps) == transitions
    metadata: dict[str, Any] = {name: kind() for name, kind in METADATA_TYPES.items()}
    metadata |= {"episode_id": f"made-up-{seed}", "task": task, "object": "vga", "source": "policy", "success": True}
    metadata |= {"seed": str(seed), "provenance": made_of(seed)}
    return Episode(
        images={"image": [picture(int(c), int(r), size, seed) for c, r in zip(columns, rows, strict=True)]},
        timestamp_s=(np.arange(steps) * 0.1).astype(np.float32),
        state=state.astype(np.float32),
        twist=twists_of(np.arange(steps) * 0.1, state[:, :7]).astype(np.float32),
        wrench=rng.normal(size=(steps, 6)).astype(np.float32),
        action=action,
        reward=np.roll(last, -1).astype(np.float32),
        is_first=np.arange(steps) == 0,
        is_last=last,
        is_terminal=last,
        instruction=instruction,
        metadata=metadata,
    )


def write_dataset(root: Path, episodes: Sequence[Episode], name: str = "made_up", shards: int = 2) -> Path:
    """Write `<root>/<name>/1.0.0` like the exporter, all in split train; return that folder."""
    folder = root / name / "1.0.0"
    folder.mkdir(parents=True)
    lengths, num_bytes = [], 0
    for index, part in enumerate(np.array_split(np.arange(len(episodes)), shards)):
        with (folder / shard_name(name, "train", index, shards)).open("wb") as stream:
            for number in part.tolist():
                write_record(stream, *encode_example(to_features(episodes[number])))
            num_bytes += stream.tell() - RECORD_OVERHEAD_BYTES * len(part)
        lengths.append(len(part))
    rows = folder / "rows"
    rows.write_bytes(b"".join(rows_of(episode).tobytes() for episode in episodes))
    statistics = dataset_statistics([rows], len(episodes)) if rows.stat().st_size else {"action": {}}
    rows.unlink()
    size = 64
    for episode in episodes[:1]:
        size = _side(episode.images["image"][0])
    for file, value in {
        "dataset_info": dataset_info(name, "1.0.0", "made up", {"train": Split(tuple(lengths), num_bytes)}),
        "features": features_json({"image": (size, size)}),
        "dataset_statistics": statistics,
    }.items():
        (folder / f"{file}.json").write_text(json.dumps(value))
    return folder


class Stopped(Exception):
    """Raised to interrupt a training."""


def stop_at(step: int) -> Callable[[int, int], None]:
    """Return a progress callback that interrupts the training at `step`."""

    def progress(done: int, steps: int) -> None:
        if done == step:
            raise Stopped

    return progress


def insertion_dataset(root: Path, episodes: int = 6, transitions: int = 8, size: int = 64, **options: Any) -> Path:
    """Write a dataset without findings: `episodes` episodes of `transitions` steps with an action."""
    return write_dataset(root, [make_episode(seed, transitions, size, **options) for seed in range(episodes)])


def open_insertion_dataset(root: Path, **options: Any) -> Dataset:
    """Write the same dataset and open it."""
    return read_dataset(insertion_dataset(root, **options))


def _side(jpeg: bytes) -> int:
    from rldg_data.episodes.jpeg import check

    return check(jpeg)[0]
