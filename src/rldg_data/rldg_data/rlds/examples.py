"""Convert between an episode and the features of its tf.train.Example."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from rldg_data.episodes.episode import METADATA_TYPES, Bools, Episode, Float32
from rldg_data.rlds.layout import STEP_FLAGS, STEP_SHAPES
from rldg_data.rlds.tfrecord import Feature


def to_features(episode: Episode) -> dict[str, Feature]:
    """Flat keys as TFDS names them."""
    terminal = episode.is_terminal
    floats = {
        "observation/state": episode.state,
        "observation/twist": episode.twist,
        "observation/wrench": episode.wrench,
        "observation/timestamp": episode.timestamp_s,
        "action": episode.action,
        "reward": episode.reward,
        # SAR alignment: the discount of step k belongs to the transition k -> k+1.
        "discount": 1.0 - np.append(terminal[1:], terminal[-1:]),
    }
    features: dict[str, Feature] = {f"steps/observation/{key}": images for key, images in episode.images.items()}
    features |= {f"steps/{key}": values.ravel().astype(np.float32, copy=False) for key, values in floats.items()}
    features |= {f"steps/{key}": getattr(episode, key).astype(np.int64) for key in STEP_FLAGS}
    features["steps/language_instruction"] = [episode.instruction.encode()] * len(episode)
    for key, kind in METADATA_TYPES.items():
        value = episode.metadata[key]
        features[f"episode_metadata/{key}"] = [value.encode()] if kind is str else np.array([value], dtype=np.int64)
    return features


def from_features(features: Mapping[str, Feature], image_keys: Iterable[str]) -> Episode:
    """Inverse of `to_features`. Raises ValueError, LookupError or TypeError when the layout differs."""
    images = {key: _bytes(features[f"steps/observation/{key}"]) for key in image_keys}
    steps = len(features["steps/reward"])
    if steps < 1 or any(len(files) != steps for files in images.values()):
        raise ValueError(f"{steps} rewards, images: {', '.join(f'{k} {len(v)}' for k, v in images.items())}")
    instructions = set(_bytes(features["steps/language_instruction"]))
    if len(instructions) != 1:
        raise ValueError(f"{len(instructions)} instructions in one episode")
    floats = {key: _floats(features[f"steps/{key}"], steps, *shape) for key, shape in STEP_SHAPES.items()}
    flags = {key: _flags(features[f"steps/{key}"], steps) for key in STEP_FLAGS}
    return Episode(
        images=images,
        timestamp_s=floats["observation/timestamp"],
        state=floats["observation/state"],
        twist=floats["observation/twist"],
        wrench=floats["observation/wrench"],
        action=floats["action"],
        reward=floats["reward"],
        is_first=flags["is_first"],
        is_last=flags["is_last"],
        is_terminal=flags["is_terminal"],
        instruction=instructions.pop().decode(),
        metadata={
            key: value.decode() if isinstance(value, bytes) else kind(value)
            for key, kind in METADATA_TYPES.items()
            for value in [_one(features[f"episode_metadata/{key}"], kind, key)]
        },
    )


def _one(values: Feature, kind: type, key: str) -> bytes | int:
    (value,) = values
    if isinstance(value, bytes) != (kind is str):
        raise ValueError(f"episode_metadata/{key} is not {kind.__name__}")
    return value if isinstance(value, bytes) else int(value)


def _bytes(values: Feature) -> list[bytes]:
    if not isinstance(values, list):
        raise TypeError("an image or a text has numbers")
    return values


def _floats(values: Feature, *shape: int) -> Float32:
    if not isinstance(values, np.ndarray) or values.dtype != np.float32:
        raise TypeError("a float feature has another type")
    return np.asarray(values, dtype=np.float32).reshape(shape)


def _flags(values: Feature, steps: int) -> Bools:
    if not isinstance(values, np.ndarray) or values.dtype != np.int64 or values.shape != (steps,):
        raise TypeError("a flag is not one integer per step")
    return np.asarray(values, dtype=np.bool_)
