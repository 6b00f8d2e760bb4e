"""RLDS: bags -> dataset -> arrays, TFRecord by an independent decoder, selection, refusals, atomicity."""

from __future__ import annotations

import errno
import os
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_samples import episodes, make_episode, make_task
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rldg_core.errors import UserError
from rldg_core.types import Source, Step
from rldg_data import export
from rldg_data.export import export_dataset
from rldg_data.recording import write_episode
from rldg_data.rlds import read_dataset
from rldg_data.tfrecord import decode_example, encode_example


def record(bag_dir: Path, **options: Any) -> list[Step]:
    steps = make_episode(**options)
    write_episode(bag_dir, steps, make_task(options.get("gripper", False)), wall_time="now")
    return steps


def crc32c_table() -> list[int]:
    """CRC-32C bit by bit (Castagnoli, reflected 0x82F63B78): independent of google_crc32c."""
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
    """tf.train.Example by Google's protobuf runtime, from the field numbers of example.proto and feature.proto."""
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


def test_tfrecord_by_an_independent_decoder(tmp_path: Path) -> None:
    steps = record(tmp_path / "bags", transitions=4)
    result = export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0")
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
def test_examples_survive_encoding(features: dict[str, Any]) -> None:
    data = b"".join(encode_example(features))
    example = Example.FromString(data)
    parsed = example.features.feature
    decoded = decode_example(data)
    assert set(decoded) == set(features) == set(parsed)
    for key, value in features.items():
        field = parsed[key].WhichOneof("kind")
        np.testing.assert_array_equal(list(getattr(parsed[key], field).value), value)
        np.testing.assert_array_equal(decoded[key], value)


@settings(max_examples=25, deadline=None)
@given(steps=episodes(min_transitions=1))
def test_steps_survive_bag_and_dataset(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bag = write_episode(Path(folder) / "bags", steps, make_task())
        result = export_dataset([bag.parent], Path(folder), "insertion", "1.0.0")
        (episode,) = read_dataset(result.path).episodes()
    assert (result.episodes, result.steps, result.skipped) == (1, len(steps), 0)
    assert episode.images["image"] == [s.observation.images["wrist"] for s in steps]
    assert (episode.instruction, episode.metadata["seed"]) == (steps[0].instruction, str(steps[0].seed))
    for row, step in enumerate(steps):
        np.testing.assert_array_equal(episode.state[row, :7], step.observation.pose_base_tcp.astype(np.float32))
        width = step.observation.gripper_width_m
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


def test_gripper_action_is_absolute_and_one_is_open(tmp_path: Path) -> None:
    steps = record(tmp_path / "bags", gripper=True)
    result = export_dataset([tmp_path / "bags"], tmp_path, "pick", "1.0.0")
    (episode,) = read_dataset(result.path).episodes()
    expected = [(float(s.action.executed[6]) + 1) / 2 for s in steps[:-1]]
    np.testing.assert_allclose(episode.action[:, 6], [*expected, expected[-1]], rtol=1e-6)


def test_statistics(tmp_path: Path) -> None:
    all_steps = [record(tmp_path / "bags", transitions=10, seed=i) for i in range(4)]
    result = export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0")
    statistics = read_dataset(result.path).statistics
    raw = np.array([s.action.executed for steps in all_steps for s in steps[:-1]])
    actions = raw * ([0.015] * 3 + [0.1] * 3)
    assert (statistics["num_transitions"], statistics["num_trajectories"]) == (40, 4)
    assert statistics["action"]["mask"] == [True] * 6 + [False]
    for key, value in (
        ("mean", actions.mean(0)),
        ("std", actions.std(0)),
        ("min", actions.min(0)),
        ("max", actions.max(0)),
        ("q01", np.percentile(actions, 1, axis=0)),
        ("p99", np.percentile(actions, 99, axis=0)),
    ):
        np.testing.assert_allclose(statistics["action"][key][:6], value, rtol=1e-5, atol=1e-9)
        assert statistics["action"][key][6] == 0.0
    for key in ("q01", "q99"):
        assert statistics["action"][key] == statistics["action"][key.replace("q", "p")]
    assert len(statistics["proprio"]["mean"]) == 8


def test_export_is_deterministic_and_moving_the_runs_changes_nothing(tmp_path: Path) -> None:
    for root in ("one", "two"):
        for i in range(5):
            record(tmp_path / root / "run/bags", seed=i)
        export_dataset([tmp_path / root / "run/bags"], tmp_path / root, "insertion", "1.0.0", seed=3)
    contents = [
        {p.name: p.read_bytes() for p in (tmp_path / root / "insertion/1.0.0").iterdir()} for root in ("one", "two")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


def test_filters_and_balance(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    for seed in range(12):
        record(
            bags,
            seed=seed,
            object_name="usb_a" if seed < 8 else "hdmi",
            success=seed % 2 == 0,
            source=Source.SCRIPTED if seed % 3 == 0 else Source.POLICY,
        )

    def seeds(**options: Any) -> list[int]:
        result = export_dataset([bags], tmp_path, "insertion", "1.0.0", overwrite=True, **options)
        found = [int(e.metadata["seed"]) for e in read_dataset(result.path).episodes()]
        assert (result.episodes, result.skipped) == (len(found), 12 - len(found))
        return found

    assert sorted(seeds()) == list(range(12))
    assert seeds() == seeds() != seeds(seed=1)
    assert sorted(seeds(only_success=True)) == [0, 2, 4, 6, 8, 10]
    assert sorted(seeds(source="scripted")) == [0, 3, 6, 9]
    balanced = seeds(max_episodes_per_object=3)
    assert [seed < 8 for seed in sorted(balanced)] == [True] * 3 + [False] * 3
    assert len(seeds(max_episodes=5)) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "1.0"}, "dataset version '1.0': expected MAJOR.MINOR.PATCH"),
        ({"name": "My-Data"}, "dataset name 'My-Data'"),
        ({"source": "robot"}, "source 'robot': unknown, expected one of policy, human, scripted, hold"),
        ({"source": "human"}, "none of 1 episodes passes the filters"),
        ({"bag_dirs": [Path("/nowhere")]}, "/nowhere: no such directory"),
        ({"bag_dirs": [Path("/proc/self")]}, "/proc/self: no bags"),
    ],
)
def test_wrong_argument_is_a_user_error(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    record(tmp_path / "bags")
    arguments = {"bag_dirs": [tmp_path / "bags"], "output_dir": tmp_path / "out", "name": "a", "version": "1.0.0"}
    with pytest.raises(UserError, match=message):
        export_dataset(**{**arguments, **options})
    assert not (tmp_path / "out").exists()


def test_existing_dataset_is_kept_unless_told(tmp_path: Path) -> None:
    record(tmp_path / "bags")
    path = export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0").path
    (path / "dataset_statistics_0123.json").write_text("cached by a consumer")
    with pytest.raises(UserError, match="exists already"):
        export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0")
    assert (path / "dataset_statistics_0123.json").exists()
    export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0", overwrite=True)
    assert not (path / "dataset_statistics_0123.json").exists()
    assert sorted(p.name for p in path.parent.iterdir()) == ["1.0.0"]


def test_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    record(tmp_path / "bags")
    (tmp_path / "insertion/1.0.0").mkdir(parents=True)
    (tmp_path / "insertion/1.0.0/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a dataset"):
        export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0", overwrite=True)
    assert (tmp_path / "insertion/1.0.0/thesis.txt").read_text() == "mine"


def test_damaged_bag_leaves_the_old_dataset(tmp_path: Path) -> None:
    for seed in range(3):
        record(tmp_path / "bags", seed=seed)
    path = export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0").path
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    bag = tmp_path / "bags/episode_000001/episode_000001_0.mcap"
    os.truncate(bag, bag.stat().st_size // 2)
    with pytest.raises(UserError, match=r"episode_000001_0\.mcap: truncated or corrupt"):
        export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0", overwrite=True)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert [p.name for p in path.parent.iterdir()] == ["1.0.0"]


def test_images_of_two_sizes_are_refused(tmp_path: Path) -> None:
    record(tmp_path / "bags", image_size=32)
    record(tmp_path / "bags", image_size=64)
    with pytest.raises(UserError, match=r"images of \(\d+, \d+\) px, those before are of"):
        export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0")


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "bags")

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(export, "write_record", full)
    with pytest.raises(UserError, match=r"insertion/1\.0\.0: cannot write: No space left on device"):
        export_dataset([tmp_path / "bags"], tmp_path, "insertion", "1.0.0")
    assert list((tmp_path / "insertion").iterdir()) == []


def test_file_size_limit_leaves_nothing(tmp_path: Path) -> None:
    record(tmp_path / "bags", transitions=40)
    code = (
        "import sys; from pathlib import Path\n"
        "from rldg_core.errors import UserError; from rldg_data.export import export_dataset\n"
        f"try: export_dataset([Path({str(tmp_path / 'bags')!r})], Path({str(tmp_path)!r}), 'insertion', '1.0.0')\n"
        "except UserError as error: sys.exit(str(error))\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run([sys.executable, "-c", code], preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{tmp_path}/insertion/1.0.0: cannot write: File too large"
    assert list((tmp_path / "insertion").iterdir()) == []
