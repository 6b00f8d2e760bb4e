"""Read datasets of this suite: for training, lint, card and LeRobot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_data.episodes.episode import Episode
from rldg_data.plan import is_valid_name, is_valid_version
from rldg_data.rlds.examples import from_features
from rldg_data.rlds.layout import ImageSizes, image_sizes, shard_name
from rldg_data.rlds.tfrecord import decode_example, read_records

_MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)
"""Exceptions on JSON of another layout."""


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk. statistics: content of dataset_statistics.json; shard_lengths: per split, per shard."""

    path: Path
    name: str
    version: str
    statistics: Mapping[str, Any]
    shard_lengths: Mapping[str, tuple[int, ...]]
    image_sizes: ImageSizes

    def __len__(self) -> int:
        """Number of episodes in all splits."""
        return sum(self.splits.values())

    @property
    def splits(self) -> Mapping[str, int]:
        """Split -> number of episodes."""
        return {split: sum(lengths) for split, lengths in self.shard_lengths.items()}

    def episodes(self, split: str = "train") -> Iterator[Episode]:
        """Yield the episodes in stored order. Raises UserError naming the shard when it is damaged."""
        if split not in self.shard_lengths:
            raise UserError(f"{self.path}: no split {split!r}, it has {', '.join(self.shard_lengths)}")
        lengths = self.shard_lengths[split]
        for index, length in enumerate(lengths):
            path = self.path / shard_name(self.name, split, index, len(lengths))
            count = 0
            for record in read_records(path):
                try:
                    yield from_features(decode_example(record), self.image_sizes)
                except (ValueError, LookupError, TypeError) as error:
                    raise UserError(f"{path}: episode {count}: not an episode of this layout: {error}") from error
                count += 1
            if count != length:
                raise UserError(f"{path}: {count} episodes, dataset_info.json says {length}")


def read_dataset(path: Path) -> Dataset:
    """Open `<root>/<name>/<version>`. Raises UserError naming what is missing or malformed."""
    if not (path / "dataset_info.json").is_file():
        raise UserError(f"{path}: not a dataset: no dataset_info.json (expected <root>/<name>/<version>)")
    info, features, statistics = (
        read_json(path / f"{name}.json") for name in ("dataset_info", "features", "dataset_statistics")
    )
    if not isinstance(statistics, dict):
        raise UserError(f"{path / 'dataset_statistics.json'}: expected a JSON object")
    try:
        lengths = {split["name"]: tuple(int(n) for n in split["shardLengths"]) for split in info["splits"]}
        name, version = info["name"], info["version"]
        if not is_valid_name(name) or not is_valid_version(version) or not all(map(is_valid_name, lengths)):
            raise ValueError("invalid name or version for TFDS")
    except _MALFORMED as error:
        raise UserError(f"{path / 'dataset_info.json'}: not an RLDS dataset: {error!r}") from error
    try:
        sizes = image_sizes(features)
        if not sizes or not all(map(is_valid_name, sizes)):
            raise ValueError("no image, or an invalid image key")
    except _MALFORMED as error:
        raise UserError(f"{path / 'features.json'}: not the layout of this suite: {error!r}") from error
    return Dataset(path, name, version, statistics, lengths, sizes)
