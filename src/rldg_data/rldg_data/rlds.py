"""RLDS datasets on disk as TFDS writes and reads them, without TensorFlow.

`<root>/<name>/<version>/`: dataset_info.json, features.json, dataset_statistics.json and
`<name>-train.tfrecord-00000-of-0000N`; one tf.train.Example per episode with flat keys (`steps/action`:
T x 7 floats). The layout follows tensorflow_datasets 4.9 (core/dataset_info.py, core/features).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldg_core.errors import UserError
from rldg_core.files import read_json
from rldg_data.tfrecord import Feature, decode_example, encode_example, read_records, write_record

Float32 = NDArray[np.float32]
Bools = NDArray[np.bool_]

STATE_DIM = 8
ACTION_DIM = 7
SHARD_BYTES = 256 * 2**20
"""A shard is closed when it has passed this size: enough shards to read in parallel, few enough to copy."""

METADATA_TYPES: Mapping[str, type] = {
    "file_path": str,
    "episode_id": str,
    "task": str,
    "object": str,
    "source": str,
    "policy_id": str,
    "policy_version": int,
    "seed": str,
    "success": bool,
}
"""episode_metadata. seed is text: TFDS has no unsigned 64-bit integers on disk."""

_FEATURES = "tensorflow_datasets.core.features."


@dataclass(frozen=True)
class Episode:
    """One episode of T + 1 steps; the last step has the final observation and a meaningless action.

    images: JPEG, (H, W, 3) RGB when decoded; state (T+1, 8): tcp in base [m], quaternion xyzw, gripper width
    [m]; action (T+1, 7): executed delta of the tcp in tcp axes [m, rad], gripper 0 closed .. 1 open; reward
    (T+1,) of the transition k -> k+1; metadata: METADATA_TYPES.
    """

    images: list[bytes]
    state: Float32
    action: Float32
    reward: Float32
    is_first: Bools
    is_last: Bools
    is_terminal: Bools
    instruction: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk. statistics: content of dataset_statistics.json."""

    path: Path
    name: str
    version: str
    statistics: Mapping[str, Any]
    shard_lengths: tuple[int, ...]

    def __len__(self) -> int:
        """Number of episodes."""
        return sum(self.shard_lengths)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes in stored order. Raises UserError naming the shard when it is damaged."""
        for index, length in enumerate(self.shard_lengths):
            path = self.path / shard_name(self.name, index, len(self.shard_lengths))
            count = 0
            for record in read_records(path):
                try:
                    yield _from_features(decode_example(record))
                except (ValueError, LookupError, TypeError) as error:
                    raise UserError(f"{path}: episode {count}: not an episode of this layout: {error}") from error
                count += 1
            if count != length:
                raise UserError(f"{path}: {count} episodes, dataset_info.json says {length}")


def read_dataset(path: Path) -> Dataset:
    """Open `<root>/<name>/<version>`. Raises UserError naming what is missing or malformed."""
    if not (path / "dataset_info.json").is_file():
        raise UserError(f"{path}: not a dataset: no dataset_info.json (expected <root>/<name>/<version>)")
    info, statistics = read_json(path / "dataset_info.json"), read_json(path / "dataset_statistics.json")
    try:
        (split,) = info["splits"]
        lengths = tuple(int(n) for n in split["shardLengths"])
        return Dataset(path, str(info["name"]), str(info["version"]), dict(statistics), lengths)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path / 'dataset_info.json'}: not a dataset of one split: {error}") from error


def shard_name(name: str, index: int, count: int) -> str:
    """TFDS's file name of a shard of the train split."""
    return f"{name}-train.tfrecord-{index:05d}-of-{count:05d}"


def write_shards(
    folder: Path, name: str, episodes: Iterable[Episode], shard_bytes: int = SHARD_BYTES
) -> tuple[list[int], int]:
    """Write the episodes as shards and return (episodes per shard, bytes of all examples)."""
    lengths: list[int] = []
    total = 0
    remaining = iter(episodes)
    episode = next(remaining, None)
    while episode is not None:
        size = count = 0
        with (folder / f"shard-{len(lengths)}").open("wb") as stream:
            while episode is not None and size < shard_bytes:
                payload = encode_example(_to_features(episode))
                size += write_record(stream, payload)
                total += len(payload)
                count += 1
                episode = next(remaining, None)
        lengths.append(count)
    for index in range(len(lengths)):
        (folder / f"shard-{index}").rename(folder / shard_name(name, index, len(lengths)))
    return lengths, total


def dataset_info(name: str, version: str, description: str, shard_lengths: list[int], num_bytes: int) -> dict[str, Any]:
    """Content of dataset_info.json."""
    split = {
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "name": "train",
        "numBytes": str(num_bytes),
        "shardLengths": [str(n) for n in shard_lengths],
    }
    return {
        "description": description,
        "fileFormat": "tfrecord",
        "moduleName": "rldg_data.rlds",
        "name": name,
        "releaseNotes": {version: "exported from bags"},
        "splits": [split],
        "version": version,
    }


def features_json(height: int, width: int) -> dict[str, Any]:
    """Content of features.json for images of this size [px]."""
    image = {
        "pythonClassName": _FEATURES + "image_feature.Image",
        "image": {"shape": {"dimensions": [str(height), str(width), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"},
    }
    steps = {
        "observation": _dict({"image": image, "state": _tensor("float32", STATE_DIM)}),
        "action": _tensor("float32", ACTION_DIM),
        "reward": _tensor("float32"),
        "discount": _tensor("float32"),
        "is_first": _tensor("bool"),
        "is_last": _tensor("bool"),
        "is_terminal": _tensor("bool"),
        "language_instruction": _text(),
    }
    kinds: Mapping[type, Callable[[], dict[str, Any]]] = {
        str: _text,
        int: lambda: _tensor("int64"),
        bool: lambda: _tensor("bool"),
    }
    return _dict(
        {
            "steps": {
                "pythonClassName": _FEATURES + "dataset_feature.Dataset",
                "sequence": {"feature": _dict(steps), "length": "-1"},
            },
            "episode_metadata": _dict({key: kinds[kind]() for key, kind in METADATA_TYPES.items()}),
        }
    )


def is_valid_name(name: str) -> bool:
    """Whether TFDS takes this as a dataset name."""
    return re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None


def is_valid_version(version: str) -> bool:
    """Whether TFDS takes this as a version: MAJOR.MINOR.PATCH."""
    return re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", version) is not None


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    name = _FEATURES + "features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": dict(features)}}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    kind = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"pythonClassName": _FEATURES + kind, "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"}}


def _text() -> dict[str, Any]:
    return {"pythonClassName": _FEATURES + "text_feature.Text", "text": {}}


def _to_features(episode: Episode) -> dict[str, Feature]:
    terminal = episode.is_terminal
    # SAR alignment: the discount of step k belongs to the transition k -> k+1.
    discount = 1.0 - np.append(terminal[1:], terminal[-1:])
    features: dict[str, Feature] = {
        "steps/observation/image": episode.images,
        "steps/observation/state": episode.state.ravel(),
        "steps/action": episode.action.ravel(),
        "steps/reward": episode.reward,
        "steps/discount": discount.astype(np.float32),
        "steps/is_first": episode.is_first.astype(np.int64),
        "steps/is_last": episode.is_last.astype(np.int64),
        "steps/is_terminal": terminal.astype(np.int64),
        "steps/language_instruction": [episode.instruction.encode()] * len(episode.images),
    }
    for key, kind in METADATA_TYPES.items():
        value = episode.metadata[key]
        features[f"episode_metadata/{key}"] = [value.encode()] if kind is str else np.array([value], dtype=np.int64)
    return features


def _from_features(features: Mapping[str, Feature]) -> Episode:
    images = list(features["steps/observation/image"])
    steps = len(images)
    instructions = list(features["steps/language_instruction"])
    metadata = {
        key: value.decode() if kind is str else kind(value)
        for key, kind in METADATA_TYPES.items()
        for value in [features[f"episode_metadata/{key}"][0]]
    }
    return Episode(
        images=images,
        state=_floats(features["steps/observation/state"], steps, STATE_DIM),
        action=_floats(features["steps/action"], steps, ACTION_DIM),
        reward=_floats(features["steps/reward"], steps),
        is_first=np.asarray(features["steps/is_first"], dtype=np.bool_),
        is_last=np.asarray(features["steps/is_last"], dtype=np.bool_),
        is_terminal=np.asarray(features["steps/is_terminal"], dtype=np.bool_),
        instruction=instructions[0].decode(),
        metadata=metadata,
    )


def _floats(values: Feature, *shape: int) -> Float32:
    return np.asarray(values, dtype=np.float32).reshape(shape)
