"""Reference for the export: tensorflow-datasets writes the same episodes and features. Runs in .venv-compat.

    .venv/bin/python tests_compat/dump.py DATASET RAW        (once: episodes as plain npz files, JPEG bytes included)
    .venv-compat/bin/python benchmarks/_tfds_peer.py RAW OUT [--size-px N]

A GeneratorBasedBuilder as datasets for OpenVLA and Octo are written, made as fast as it allows: one process, no
shuffling, JPEG bytes passed through (with --size-px decoded, resized and encoded by TensorFlow). Prints one JSON line:
wall_s since the process began, imports included; write_s: of them, writing alone; peak_rss_mb; frames; episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil
import tensorflow as tf
import tensorflow_datasets as tfds

TEXT = tfds.features.Text()
KINDS = {str: TEXT, bool: np.bool_, int: np.int64}
STEP = ("action", "reward", "is_first", "is_last", "is_terminal")
SEEN = ("state", "twist", "wrench", "timestamp")


def features(first: dict[str, Any], size_px: int | None) -> tfds.features.FeaturesDict:
    """Return the features of our export."""

    def array(name: str) -> Any:
        values = first[name]
        return tfds.features.Tensor(shape=values.shape[1:], dtype=values.dtype) if values.ndim > 1 else values.dtype

    images = {}
    for key, files in first["images"].items():
        height, width = tf.io.decode_jpeg(files[0]).shape[:2]
        shape = (size_px, size_px, 3) if size_px else (height, width, 3)
        images[key] = tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="jpeg")
    step = {
        "observation": {**images, **{name: array(name) for name in SEEN}},
        **{name: array(name) for name in STEP},
        "discount": np.float32,
        "language_instruction": TEXT,
    }
    metadata = {key: KINDS[type(value)] for key, value in first["metadata"].items()}
    return tfds.features.FeaturesDict({"steps": tfds.features.Dataset(step), "episode_metadata": metadata})


def load(path: Path) -> dict[str, Any]:
    """Read one file of dump.py."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    images = {}
    for key in [key for key in arrays if key.startswith("jpeg_") and not key.endswith("_sizes")]:
        data, ends = arrays[key].tobytes(), np.cumsum(arrays[f"{key}_sizes"]).tolist()
        images[key.removeprefix("jpeg_")] = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    terminal = arrays["is_terminal"]
    return {
        **{name: arrays[name] for name in (*STEP, *SEEN)},
        "images": images,
        "discount": (1.0 - np.append(terminal[1:], terminal[-1:])).astype(np.float32),
        "language_instruction": str(arrays["language_instruction"]),
        "metadata": json.loads(str(arrays["metadata"])),
    }


def example(episode: dict[str, Any], size_px: int | None) -> dict[str, Any]:
    """Return an episode in the form that the builder expects."""

    def image(data: bytes) -> Any:
        if size_px is None:
            return data
        return tf.cast(tf.image.resize(tf.io.decode_jpeg(data), (size_px, size_px), "area"), tf.uint8).numpy()

    steps = [
        {
            "observation": {
                **{key: image(files[i]) for key, files in episode["images"].items()},
                **{name: episode[name][i] for name in SEEN},
            },
            **{name: episode[name][i] for name in (*STEP, "discount")},
            "language_instruction": episode["language_instruction"],
        }
        for i in range(len(episode["action"]))
    ]
    return {"steps": steps, "episode_metadata": episode["metadata"]}


class Peer(tfds.core.GeneratorBasedBuilder):
    """Return the builder."""

    VERSION = tfds.core.Version("1.0.0")
    raw: list[Path]
    size_px: int | None
    frames = 0

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self, features=features(load(self.raw[0]), self.size_px), disable_shuffling=True
        )

    def _split_generators(self, _: Any) -> dict[str, Iterator[tuple[int, Any]]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, Any]]:
        for number, path in enumerate(self.raw):
            made = example(load(path), self.size_px)
            Peer.frames += len(made["steps"])
            yield number, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size-px", type=int)
    arguments = parser.parse_args()
    Peer.raw, Peer.size_px = sorted(arguments.raw.glob("*.npz")), arguments.size_px
    if not Peer.raw:
        raise SystemExit(f"{arguments.raw}: no npz files of dump.py")
    tfds.disable_progress_bar()
    began = time.time()
    with redirect_stdout(sys.stderr):
        Peer(data_dir=arguments.out).download_and_prepare()
    ended = time.time()
    result = {
        "wall_s": round(ended - psutil.Process().create_time(), 3),
        "write_s": round(ended - began, 3),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "frames": Peer.frames,
        "episodes": len(Peer.raw),
        "tensorflow_datasets": tfds.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
