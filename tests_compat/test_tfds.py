"""TensorFlow Datasets and pipelines like dlimp's read what our exporter writes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from conftest import HERE, ROOT, Made, load_dump, run_in_venv

FIELDS = ("action", "reward", "is_first", "is_last", "is_terminal")
SEEN = ("state", "twist", "wrench", "timestamp")


def jpegs(episode: dict[str, np.ndarray], key: str) -> list[bytes]:
    data, ends = episode[f"jpeg_{key}"].tobytes(), np.cumsum(episode[f"jpeg_{key}_sizes"])
    return [data[end - size : end] for end, size in zip(ends, episode[f"jpeg_{key}_sizes"], strict=True)]


def raw_episodes(made: Made, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return (metadata, steps) of a split in stored order, with images as their bytes."""
    builder = tfds.builder_from_directory(made.path)
    config = tfds.ReadConfig(interleave_cycle_length=1)
    skip = {"steps": {"observation": {key: tfds.decode.SkipDecoding() for key in made.image_px}}}
    for episode in builder.as_dataset(split=split, decoders=skip, read_config=config):
        steps = [tf.nest.map_structure(lambda x: x.numpy(), step) for step in episode["steps"]]
        stacked = tf.nest.map_structure(lambda *values: np.stack(values), *steps)
        yield tf.nest.map_structure(lambda x: x.numpy(), episode["episode_metadata"]), stacked


def test_splits_and_sizes(made: Made) -> None:
    info = tfds.builder_from_directory(made.path).info
    assert {name: split.num_examples for name, split in info.splits.items()} == {
        split: len(episodes) for split, episodes in made.expected.items()
    }
    assert sorted(made.expected) == (["train", "val"] if info.name == "two_cameras" else ["train"])
    if info.name == "two_cameras":
        assert info.splits["train"].num_shards > 1
        assert info.description == "Für den Test: zwei Kameras"
    observation = info.features["steps"]["observation"]
    assert {key: observation[key].shape for key in made.image_px} == {
        key: (px, px, 3) for key, px in made.image_px.items()
    }
    assert f"{info.name}/{info.version}" == "/".join(made.path.parts[-2:])


def test_every_field_equals_that_of_our_reader(made: Made) -> None:
    for split, expected in made.expected.items():
        read = list(raw_episodes(made, split))
        assert len(read) == len(expected)
        for (metadata, steps), episode in zip(read, expected, strict=True):
            for name in FIELDS:
                np.testing.assert_array_equal(steps[name], episode[name], err_msg=name)
                assert steps[name].dtype == episode[name].dtype
            for name in SEEN:
                np.testing.assert_array_equal(steps["observation"][name], episode[name], err_msg=name)
            for key in made.image_px:
                assert list(steps["observation"][key]) == jpegs(episode, key)
            terminal = episode["is_terminal"]
            np.testing.assert_array_equal(steps["discount"], 1.0 - np.append(terminal[1:], terminal[-1:]))
            texts = {value.decode() for value in steps["language_instruction"]}
            assert texts == {str(episode["language_instruction"])}
            found = {k: v.decode() if isinstance(v, bytes) else v.item() for k, v in metadata.items()}
            assert found == json.loads(str(episode["metadata"]))


def test_images_decode_like_those_of_other_decoders(made: Made) -> None:
    dataset = tfds.builder_from_directory(made.path).as_dataset(
        split="train", read_config=tfds.ReadConfig(interleave_cycle_length=1)
    )
    for episode, expected in zip(dataset.take(2), made.expected["train"], strict=False):
        for number, step in enumerate(episode["steps"]):
            for key, px in made.image_px.items():
                image = step["observation"][key].numpy()
                assert image.shape == (px, px, 3) and image.dtype == np.uint8
                data = jpegs(expected, key)[number]
                other = np.asarray(Image.open(io.BytesIO(data)), int)
                exact = tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy()
                assert np.abs(exact - other).max() <= 1
                # By default TensorFlow uses the fast inverse DCT, and our samples are strong noise.
                assert np.abs(image - other).mean() < 4


def test_load_by_name_and_slices(made: Made) -> None:
    root, name = made.path.parents[1], made.path.parent.name
    count = len(made.expected["train"])
    for wanted, number in (("train", count), ("train[:50%]", round(count / 2)), ("train[-1:]", 1)):
        dataset = tfds.load(name, data_dir=root, split=wanted)
        assert sum(1 for _ in dataset) == number
    assert tfds.load(f"{name}:{made.path.name}", data_dir=root, split="all").cardinality() == sum(
        map(len, made.expected.values())
    )


@pytest.mark.parametrize(("key", "field"), [("action", "action"), ("proprio", "state")])
def test_statistics_are_those_of_the_data_that_tensorflow_reads(made: Made, key: str, field: str) -> None:
    rows = []
    for _, steps in raw_episodes(made, "train"):
        values = steps[field] if field in steps else steps["observation"][field]
        rows.append(values[:-1].astype(np.float64))  # the last step has no action
    values, stored = np.concatenate(rows), made.statistics[key]
    for name, q in (("q01", 0.01), ("p01", 0.01), ("q99", 0.99), ("p99", 0.99)):
        np.testing.assert_array_equal(stored[name], np.quantile(values, q, axis=0))
    np.testing.assert_array_equal(stored["min"], values.min(axis=0))
    np.testing.assert_array_equal(stored["max"], values.max(axis=0))
    np.testing.assert_allclose(stored["mean"], values.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(stored["std"], values.std(axis=0), rtol=1e-12, atol=1e-15)
    assert made.statistics["num_transitions"] == len(values)
    assert made.statistics["num_trajectories"] == len(rows)


def test_pipeline_of_a_training_runs(made: Made) -> None:
    """Like dlimp: whole trajectories with undecoded images, mapped, flattened, shuffled, decoded and batched."""
    builder = tfds.builder_from_directory(made.path)
    trajectories = builder.as_dataset(split="train", shuffle_files=True, decoders={"steps": tfds.decode.SkipDecoding()})
    low, high = (tf.constant(made.statistics["action"][name], tf.float32) for name in ("q01", "q99"))
    mask = tf.constant(made.statistics["action"]["mask"])

    def normalise(episode: Any) -> Any:
        steps = tf.nest.map_structure(lambda values: values[:-1], episode["steps"])
        scaled = tf.clip_by_value(2 * (steps["action"] - low) / (high - low + 1e-8) - 1, -1, 1)
        count = tf.shape(steps["action"])[0]
        return {
            "image": steps["observation"]["image"],
            "state": steps["observation"]["state"],
            "action": tf.where(mask, scaled, steps["action"]),
            "language": steps["language_instruction"],
            "episode_id": tf.repeat(episode["episode_metadata"]["episode_id"], count),
        }

    def decode(frame: Any) -> Any:
        image = tf.io.decode_image(frame["image"], expand_animations=False, dtype=tf.uint8)
        return {**frame, "image": tf.image.resize(image, (32, 32))}

    frames = trajectories.map(normalise).interleave(tf.data.Dataset.from_tensor_slices, cycle_length=4)
    batches = list(frames.shuffle(1000, seed=1).map(decode).batch(8, drop_remainder=False).as_numpy_iterator())
    assert batches[0]["image"].shape == (8, 32, 32, 3)
    joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    expected = made.expected["train"]
    assert len(joined["action"]) == sum(len(episode["action"]) - 1 for episode in expected)
    assert (np.abs(joined["action"][:, :6]) <= 1).all()
    for episode in expected:
        name = json.loads(str(episode["metadata"]))["episode_id"].encode()
        seen = joined["state"][joined["episode_id"] == name]
        assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, episode["state"][:-1].tolist()))


def test_our_reader_reads_datasets_of_tfds(made: Made, tmp_path: Path) -> None:
    """The benchmark's peer writes the same episodes: it does the same work, and our reader reads files of other
    writers."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for file in made.dump.glob("train_*"):
        shutil.copy(file, raw)
    peer = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "_tfds_peer.py", raw, tmp_path], check=True, stdout=subprocess.PIPE
    )
    result = json.loads(peer.stdout)
    expected = load_dump(raw)["train"]
    assert result["frames"] == sum(len(episode["action"]) for episode in expected)
    assert 0 < result["write_s"] < result["wall_s"] and result["peak_rss_mb"] > 50
    written = tmp_path / "peer" / "1.0.0"
    shutil.copy(made.path / "dataset_statistics.json", written)
    run_in_venv(HERE / "dump.py", written, tmp_path / "dump")
    read = load_dump(tmp_path / "dump")["train"]
    assert len(read) == len(expected)
    for one, other in zip(read, expected, strict=True):
        assert one.keys() == other.keys()
        for name, values in other.items():
            np.testing.assert_array_equal(one[name], values, err_msg=name)
