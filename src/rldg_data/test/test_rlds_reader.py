"""RLDS: round trips of arbitrary episodes, bags to dataset to arrays, TFRecord read by an independent decoder."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rldg_core.errors import UserError
from rldg_core.image_codec import decode_jpeg
from rldg_core.types import Step
from rldg_data.bags.recording import write_episode
from rldg_data.episodes.episode import Episode
from rldg_data.rlds import read_dataset
from rldg_data.rlds.examples import from_features, to_features
from rldg_data.rlds.export import export_plan
from rldg_data.rlds.tfrecord import decode_example, encode_example
from rldg_data.testing.exports import plan_of, record
from rldg_data.testing.rlds import assert_same_episode, random_episodes, write_dataset
from rldg_data.testing.steps import episodes, jpeg, make_task


def crc32c_table() -> list[int]:
    """Compute the table of CRC-32C (Castagnoli, reflected 0x82F63B78), independently of google_crc32c."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc32c_table()


def masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def example_class() -> Any:
    """Build tf.train.Example with Google's protobuf runtime, from the field numbers of its .proto files."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    for name, type_ in (("BytesList", kind.TYPE_BYTES), ("FloatList", kind.TYPE_FLOAT), ("Int64List", kind.TYPE_INT64)):
        field = file.message_type.add(name=name).field.add(name="value", number=1, type=type_)
        field.label = kind.LABEL_REPEATED
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), 1):
        feature.field.add(name=name, number=number, type=kind.TYPE_MESSAGE, type_name=f".t.{name}", oneof_index=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING)
    entry.field.add(name="value", number=2, type=kind.TYPE_MESSAGE, type_name=".t.Feature")
    entries = ".t.Features.FeatureEntry"
    repeated = features.field.add(name="feature", number=1, type=kind.TYPE_MESSAGE, type_name=entries)
    repeated.label = kind.LABEL_REPEATED
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=kind.TYPE_MESSAGE, type_name=".t.Features")
    POOL.Add(file)
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName("t.Example"))


POOL = descriptor_pool.DescriptorPool()
Example = example_class()


def test_tfrecord_is_read_by_an_independent_decoder(tmp_path: Path) -> None:
    steps = record(tmp_path / "bags", transitions=4)
    result = export_plan(plan_of(tmp_path / "bags"), tmp_path)
    data = (result.path / "insertion-train.tfrecord-00000-of-00001").read_bytes()
    length, length_crc = struct.unpack("<QI", data[:12])
    payload = data[12 : 12 + length]
    assert len(data) == 12 + length + 4
    assert length_crc == masked(data[:8])
    assert struct.unpack("<I", data[-4:])[0] == masked(payload)
    example = Example.FromString(payload)
    feature = example.features.feature
    assert list(feature["steps/observation/image"].BytesList.value) == [s.observation.images["wrist"] for s in steps]
    assert len(feature["steps/action"].FloatList.value) == 5 * 7
    assert list(feature["steps/is_last"].Int64List.value) == [0, 0, 0, 0, 1]
    assert list(feature["steps/discount"].FloatList.value) == [1, 1, 1, 0, 0]
    assert feature["episode_metadata/policy_id"].BytesList.value[0] == b"specialist"


values = st.one_of(
    st.lists(st.binary(max_size=20), min_size=1, max_size=4),
    npst.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32, allow_nan=False)),
    npst.arrays(np.int64, st.integers(1, 20)),
)


@settings(max_examples=100, deadline=None)
@given(features=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=4))
def test_examples_survive_a_round_trip(features: dict[str, Any]) -> None:
    data = b"".join(encode_example(features))
    example = Example.FromString(data)
    parsed = example.features.feature
    decoded = decode_example(data)
    assert set(decoded) == set(features) == set(parsed)
    for key, value in features.items():
        field = parsed[key].WhichOneof("kind")
        np.testing.assert_array_equal(list(getattr(parsed[key], field).value), value)
        np.testing.assert_array_equal(decoded[key], value)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_episodes_survive_a_round_trip(data: st.DataObject) -> None:
    keys = data.draw(st.sampled_from([("image",), ("image", "wrist_image")]))
    train = data.draw(st.lists(st.lists(random_episodes(keys), max_size=2), min_size=1, max_size=2))
    val = data.draw(st.lists(random_episodes(keys), max_size=1))
    with tempfile.TemporaryDirectory() as folder:
        dataset = read_dataset(write_dataset(Path(folder), {"train": train, "val": [val]}, keys))
        found = {split: list(dataset.episodes(split)) for split in dataset.splits}
    expected = {"train": [e for shard in train for e in shard], "val": val}
    assert dataset.splits == {split: len(episodes) for split, episodes in expected.items()}
    for split, written in expected.items():
        for left, right in zip(written, found[split], strict=True):
            assert_same_episode(left, right)


@settings(max_examples=30, deadline=None)
@given(episode=random_episodes())
def test_discount_is_zero_where_the_episode_terminates(episode: Episode) -> None:
    discount = to_features(episode)["steps/discount"]
    ends = [*episode.is_terminal[1:], episode.is_terminal[-1]]
    assert [float(d) for d in discount] == [0.0 if end else 1.0 for end in ends]


@settings(max_examples=25, deadline=None)
@given(steps=episodes(min_transitions=1), size_px=st.sampled_from([None, 24]))
def test_steps_survive_bag_and_dataset(steps: list[Step], size_px: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = write_episode(Path(folder) / "bags", steps, make_task())
        result = export_plan(plan_of(bag.parent, size_px=size_px), Path(folder))
        (episode,) = read_dataset(result.path).episodes()
    assert (dict(result.episodes), result.steps) == ({"train": 1}, len(steps))
    recorded = [s.observation.images["wrist"] for s in steps]
    if size_px is None:
        assert episode.images["image"] == recorded
    else:
        for data, original in zip(episode.images["image"], recorded, strict=True):
            assert abs(float(decode_jpeg(data).mean()) - float(decode_jpeg(original).mean())) < 2
    assert (episode.instruction, episode.metadata["seed"]) == (steps[0].instruction, str(steps[0].seed))
    for row, step in enumerate(steps):
        seen = step.observation
        np.testing.assert_array_equal(episode.state[row, :7], seen.pose_base_tcp.astype(np.float32))
        np.testing.assert_array_equal(episode.twist[row], seen.twist_base_tcp.astype(np.float32))
        np.testing.assert_array_equal(episode.wrench[row], seen.wrench_tcp.astype(np.float32))
        assert episode.timestamp_s[row] == np.float32((seen.stamp_ns - steps[0].observation.stamp_ns) / 1e9)
        width = seen.gripper_width_m
        assert episode.state[row, 7] == (0 if np.isnan(width) else np.float32(width))
        assert episode.reward[row] == np.float32(step.reward)
        expected = np.zeros(7)
        if not step.is_last:
            expected[:3] = step.action.executed[:3] * np.float64(0.015)
            expected[3:6] = step.action.executed[3:] * np.float64(0.1)
        np.testing.assert_allclose(episode.action[row], expected, rtol=1e-6, atol=1e-30)
    assert episode.is_first.tolist() == [s.is_first for s in steps]
    assert episode.is_last.tolist() == [s.is_last for s in steps]
    assert episode.is_terminal.tolist() == [s.is_last and s.terminated for s in steps]


def test_gripper_action_is_absolute_with_one_for_open(tmp_path: Path) -> None:
    steps = record(tmp_path / "bags", gripper=True)
    result = export_plan(plan_of(tmp_path / "bags"), tmp_path)
    (episode,) = read_dataset(result.path).episodes()
    expected = [(float(s.action.executed[6]) + 1) / 2 for s in steps[:-1]]
    np.testing.assert_allclose(episode.action[:, 6], [*expected, expected[-1]], rtol=1e-6)


def test_unknown_split_and_unrelated_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a dataset: no dataset_info\.json"):
        read_dataset(tmp_path)
    dataset = read_dataset(write_dataset(tmp_path, {"train": [[]]}))
    with pytest.raises(UserError, match="no split 'val', it has train"):
        next(dataset.episodes("val"))


def test_features_of_another_dataset_are_refused() -> None:
    with pytest.raises(KeyError):
        from_features({"steps/observation/image": [jpeg(16, 0)]}, ["image"])
