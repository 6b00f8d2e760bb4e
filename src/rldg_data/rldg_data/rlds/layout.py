"""File names and JSON files of a dataset as expected by TFDS 4.9, including features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rldg_data.episodes.episode import ACTION_DIM, METADATA_TYPES, STATE_DIM

ImageSizes = Mapping[str, tuple[int, int]]
"""Key of the image -> (height, width) [px]."""

STEP_SHAPES: Mapping[str, tuple[int, ...]] = {
    "observation/state": (STATE_DIM,),
    "observation/twist": (6,),
    "observation/wrench": (6,),
    "observation/timestamp": (),
    "action": (ACTION_DIM,),
    "reward": (),
    "discount": (),
}
"""float32 features of a step and their shapes."""

STEP_FLAGS = ("is_first", "is_last", "is_terminal")

_FEATURES = "tensorflow_datasets.core.features."
_IMAGE = _FEATURES + "image_feature.Image"


@dataclass(frozen=True)
class Split:
    """shard_lengths: episodes per shard; num_bytes: of all examples."""

    shard_lengths: tuple[int, ...]
    num_bytes: int


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """TFDS's file name of a shard."""
    return f"{name}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def dataset_info(name: str, version: str, description: str, splits: Mapping[str, Split]) -> dict[str, Any]:
    """Content of dataset_info.json."""
    return {
        "description": description,
        "fileFormat": "tfrecord",
        "moduleName": "rldg_data.rlds",
        "name": name,
        "releaseNotes": {version: "exported from bags"},
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": key,
                "numBytes": str(split.num_bytes),
                "shardLengths": [str(n) for n in split.shard_lengths],
            }
            for key, split in splits.items()
        ],
        "version": version,
    }


def features_json(sizes: ImageSizes) -> dict[str, Any]:
    """Content of features.json for images of these sizes."""
    images = {key: _image(*size) for key, size in sizes.items()}
    tensors = {key: _tensor("float32", *shape) for key, shape in STEP_SHAPES.items()}
    observation = {key.removeprefix("observation/"): value for key, value in tensors.items() if "/" in key}
    steps = {
        "observation": _dict({**images, **observation}),
        **{key: value for key, value in tensors.items() if "/" not in key},
        **{key: _tensor("bool") for key in STEP_FLAGS},
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


def image_sizes(features: Any) -> dict[str, tuple[int, int]]:
    """The images that a features.json declares. Raises LookupError, TypeError or ValueError on another layout."""
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    sizes = {}
    for key, feature in steps["observation"]["featuresDict"]["features"].items():
        if feature["pythonClassName"] == _IMAGE:
            height, width, _ = feature["image"]["shape"]["dimensions"]
            sizes[str(key)] = (int(height), int(width))
    return sizes


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    name = _FEATURES + "features_dict.FeaturesDict"
    return {"pythonClassName": name, "featuresDict": {"features": dict(features)}}


def _image(height: int, width: int) -> dict[str, Any]:
    shape = {"dimensions": [str(height), str(width), "3"]}
    return {"pythonClassName": _IMAGE, "image": {"shape": shape, "dtype": "uint8", "encodingFormat": "jpeg"}}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    kind = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    dimensions = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"pythonClassName": _FEATURES + kind, "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"}}


def _text() -> dict[str, Any]:
    return {"pythonClassName": _FEATURES + "text_feature.Text", "text": {}}
