"""Reading a dataset with damaged files gives episodes or an error of one line that names the file."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rldg_core.errors import UserError
from rldg_data.episodes.episode import METADATA_TYPES, Episode
from rldg_data.rlds import read_dataset
from rldg_data.rlds.examples import to_features
from rldg_data.rlds.tfrecord import decode_example, encode_example, masked_crc, read_records, write_record
from rldg_data.testing.rlds import write_dataset
from rldg_data.testing.steps import jpeg

JSON_FILES = ["dataset_info.json", "features.json", "dataset_statistics.json"]
SHARD = "random-train.tfrecord-00000-of-00001"


def sample(seed: int, steps: int = 3) -> Episode:
    rows = np.random.default_rng(seed).normal(size=(steps, 8)).astype(np.float32)
    flags = np.arange(steps) == steps - 1
    metadata = {key: kind("7") if kind is not bool else True for key, kind in METADATA_TYPES.items()}
    return Episode(
        images={"image": [jpeg(32, seed)] * steps},
        timestamp_s=rows[:, 0],
        state=rows,
        twist=rows[:, :6],
        wrench=rows[:, :6],
        action=rows[:, :7],
        reward=rows[:, 0],
        is_first=flags[::-1],
        is_last=flags,
        is_terminal=flags,
        instruction="insert",
        metadata=metadata,
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": [[sample(0), sample(1)]]})


@pytest.fixture(scope="module")
def copies() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def read_or_refuse(folder: Path, file: Path) -> list[Episode] | None:
    """Return all episodes, or None after a UserError of one line that names the damaged file."""
    try:
        return list(read_dataset(folder).episodes())
    except UserError as error:
        line = str(error)
        assert str(folder) in line
        assert len(line.splitlines()) == 1, line
        assert line.isprintable(), line
        return None


def damaged(original: Path, copies: Path, name: str, content: bytes) -> list[Episode] | None:
    folder = copies / "dataset"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    (folder / name).write_bytes(content)
    return read_or_refuse(folder, folder / name)


def mutated(data: st.DataObject, content: bytes) -> bytes:
    """Flip bits, cut, insert or repeat bytes."""
    mutable = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(mutable) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip" if mutable:
                mutable[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del mutable[place:]
            case "insert":
                mutable[place:place] = data.draw(st.binary(min_size=1, max_size=12))
            case "repeat":
                mutable[place:place] = mutable[: data.draw(st.integers(0, 64))]
    return bytes(mutable)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_shard_is_refused(original: Path, copies: Path, data: st.DataObject) -> None:
    content = (original / SHARD).read_bytes()
    changed = mutated(data, content)
    episodes = damaged(original, copies, SHARD, changed)
    # The CRCs detect every change.
    assert (episodes is None) == (changed != content)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), name=st.sampled_from(JSON_FILES))
def test_damaged_json_is_read_or_refused(original: Path, copies: Path, name: str, data: st.DataObject) -> None:
    damaged(original, copies, name, mutated(data, (original / name).read_bytes()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(JSON_FILES), value=json_values)
def test_other_value_in_json_is_read_or_refused(
    original: Path, copies: Path, name: str, data: st.DataObject, value: Any
) -> None:
    tree = json.loads((original / name).read_text())
    node, parent, key = tree, None, None
    while isinstance(node, dict | list) and node and data.draw(st.integers(0, 5)):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        parent, key = node, data.draw(st.sampled_from(keys))
        node = node[key]
    if parent is None:
        tree = value
    else:
        parent[key] = value
    damaged(original, copies, name, json.dumps(tree).encode())


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe", b"\0", b"Infinity", b"1" * 5000])
def test_json_beyond_the_limits_of_parsers_is_refused(original: Path, copies: Path, name: str, content: bytes) -> None:
    assert damaged(original, copies, name, content) is None


@pytest.mark.parametrize("length", ["Infinity", "-1", '"1e999"', "[1]", "1" * 5000])
def test_impossible_shard_length_is_refused(original: Path, copies: Path, length: str) -> None:
    text = (original / "dataset_info.json").read_text().replace('["2"]', f"[{length}]")
    assert damaged(original, copies, "dataset_info.json", text.encode()) is None


@pytest.mark.parametrize("name", ["../random", "/etc/passwd", "random\n", "a" * 5000, 7, None])
def test_names_outside_the_dataset_are_refused(original: Path, copies: Path, name: Any) -> None:
    for place in ("name", "split"):
        info = json.loads((original / "dataset_info.json").read_text())
        if place == "name":
            info["name"] = name
        else:
            info["splits"][0]["name"] = name
        assert damaged(original, copies, "dataset_info.json", json.dumps(info).encode()) is None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_intact_record_without_an_episode_is_refused(original: Path, copies: Path, data: st.DataObject) -> None:
    folder = copies / "record"
    folder.mkdir(exist_ok=True)
    payload = mutated(data, b"".join(encode_example(to_features(sample(0)))))
    with (folder / "shard").open("wb") as stream:
        write_record(stream, payload)
    content = (folder / "shard").read_bytes()
    damaged(original, copies, SHARD, content)


other_features = st.one_of(
    st.lists(st.binary(max_size=5), max_size=3),
    npst.arrays(np.float32, st.integers(0, 5)),
    npst.arrays(np.int64, st.integers(0, 5)),
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), value=other_features)
def test_feature_of_another_type_is_refused(original: Path, copies: Path, data: st.DataObject, value: Any) -> None:
    features = to_features(sample(0))
    key = data.draw(st.sampled_from(sorted(features)))
    if data.draw(st.booleans()):
        features[key] = value
    else:
        del features[key]
    with (copies / "shard").open("wb") as stream:
        for _ in range(2):
            write_record(stream, *encode_example(features))
    damaged(original, copies, SHARD, (copies / "shard").read_bytes())


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=60))
def test_decoder_raises_only_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_example(content)


def test_length_beyond_the_file_is_not_allocated(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    (tmp_path / "shard").write_bytes(length + struct.pack("<I", masked_crc(length)) + b"short")
    with pytest.raises(UserError, match="truncated: a record of 1152921504606846976 bytes is truncated"):
        list(read_records(tmp_path / "shard"))
